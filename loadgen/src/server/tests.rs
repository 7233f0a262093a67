use super::*;

#[test]
fn a_sample_is_found_by_its_whole_name() {
    let page = "# TYPE relaymesh_a gauge\nrelaymesh_a_total 9\nrelaymesh_a{x=\"1\"} 8\nrelaymesh_a 4096 1700000000\n";
    assert_eq!(sample(page, "relaymesh_a"), Some(4096.0));
    assert_eq!(sample(page, "relaymesh_b"), None);
}
