use super::*;

#[test]
fn a_name_of_any_length_is_itself_and_no_other() {
    let text = "ä0123456789abcdefghijklmnopqrstuvwxyz";
    for len in (0..=text.len()).filter(|&len| text.is_char_boundary(len)) {
        let name = Name::new(&text[..len]);
        assert_eq!(matches!(name.0, Kept::Short { .. }), len <= SHORT_MAX);
        assert_eq!(name.as_str(), &text[..len]);
        assert_eq!(format!("{name:?}"), format!("{:?}", &text[..len]));
        for other in (0..=text.len()).filter(|&other| text.is_char_boundary(other)) {
            assert_eq!(name.is(&text[..other]), other == len, "{len} {other}");
        }
    }
    assert!(!Name::new("d1").is("d2") && !Name::new(text).is(&text.replace('z', "y")));
}
