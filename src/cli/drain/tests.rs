use super::*;

#[test]
fn a_share_is_a_part_of_a_whole() {
    for (text, share) in [("10%", 0.1), ("0.1", 0.1), ("100%", 1.0), ("1", 1.0), ("0.5 %", 0.005)] {
        assert!((parse_share(text).unwrap() - share).abs() < 1e-12, "{text}");
    }
    for text in ["0", "0%", "-1%", "101%", "1.1", "", "%", "NaN", "inf", "ten"] {
        assert!(parse_share(text).is_err(), "{text}");
    }
}
