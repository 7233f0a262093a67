use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

#[test]
fn entries_keep_their_numbers_and_their_places() {
    let mut list = Paged::default();
    assert!(list.is_empty() && list.get(0).is_none());
    assert_eq!(list.push([0_u32; 7]), 0);
    let first: *const _ = &list[0];
    let per_page = u32::try_from(PAGE_BYTES / 28).unwrap();
    for number in 1..3 * per_page {
        assert_eq!(list.push([number; 7]), number);
        assert_eq!(list.len(), number + 1);
    }
    assert!(std::ptr::eq(first, &list[0]), "it was moved");
    for number in [0, 1, per_page - 1, per_page, 2 * per_page, 3 * per_page - 1] {
        assert_eq!(list[number], [number; 7]);
        list[number][3] = 9;
        assert_eq!(list.get(number).map(|entry| entry[3]), Some(9));
    }
    assert!(list.get(3 * per_page).is_none() && list.get(u32::MAX).is_none());
    assert_eq!(list.iter().count(), 3 * per_page as usize);
    assert_eq!(list.bytes() / PAGE_BYTES, 3, "no page is there before its time");
    list.push([0; 7]);
    assert_eq!(list.bytes() / PAGE_BYTES, 4, "and then one");
}

#[test]
fn a_list_grows_to_a_length_and_never_shrinks() {
    let mut list = Paged::default();
    list.grow_to(5, || 1_u16);
    list.grow_to(3, || 2);
    list.grow_to(6, || 3);
    assert_eq!(list.iter().copied().collect::<Vec<u16>>(), [1, 1, 1, 1, 1, 3]);
}

#[test]
fn a_free_place_costs_nothing_where_entries_have_a_value_to_spare() {
    assert_eq!(PagedSlab::<Box<str>>::ENTRY_BYTES, size_of::<Box<str>>());
}

proptest! {
    #[test]
    fn a_slab_behaves_like_a_map(steps in prop::collection::vec((any::<bool>(), any::<u16>()), 1..400)) {
        let mut slab = PagedSlab::default();
        let mut model = BTreeMap::new();
        let mut numbers = 0;
        for (is_insertion, value) in steps {
            if is_insertion {
                let number = slab.insert(value);
                prop_assert!(model.insert(number, value).is_none(), "a number was given twice");
                numbers = numbers.max(model.len());
                prop_assert!((number as usize) < numbers, "a free place was passed over");
            } else {
                let number = u32::from(value) % (numbers as u32 + 1);
                prop_assert_eq!(slab.remove(number), model.remove(&number));
            }
            prop_assert_eq!(slab.len(), model.len());
            let found: Vec<_> = slab.iter().map(|(number, value)| (number, *value)).collect();
            prop_assert_eq!(found, model.iter().map(|(&number, &value)| (number, value)).collect::<Vec<_>>());
        }
        for number in 0..numbers as u32 {
            prop_assert_eq!(slab.get(number), model.get(&number));
            prop_assert_eq!(slab.get_mut(number).map(|value| *value), model.get(&number).copied());
        }
    }
}
