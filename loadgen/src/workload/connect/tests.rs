use super::*;

#[test]
fn a_million_is_shared_out_over_tables_without_a_gap() {
    let limit = DescriptorLimit { soft: 20_000, hard: 20_000 };
    let shares = share_out(1_000_000, limit).unwrap();
    let mut next = 0;
    for share in &shares {
        assert_eq!((share.first, share.total), (next, 1_000_000));
        assert!((1..=19_968).contains(&share.wanted), "{share:?}");
        next += share.wanted;
    }
    assert_eq!((next, shares.len()), (1_000_000, 51));
    assert_eq!(share_out(19_968, limit).unwrap().len(), 1);
    assert_eq!(share_out(19_969, limit).unwrap().len(), 2);
    assert!(share_out(1, DescriptorLimit { soft: 16, hard: 16 }).is_err());
}

#[test]
fn memory_that_is_not_told_is_not_made_up() {
    assert_eq!(growth_each(Some(1000), Some(4000), 10), Some(300.0));
    assert_eq!(growth_each(Some(4000), Some(1000), 10), Some(-300.0));
    assert_eq!(growth_each(None, Some(1), 10), None);
    assert_eq!(growth_each(Some(1), Some(2), 0), None);
}
