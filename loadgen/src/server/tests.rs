use super::*;

#[test]
fn a_sample_is_found_by_its_whole_name() {
    let page = "# TYPE relaymesh_a gauge\nrelaymesh_a_total 9\nrelaymesh_a{x=\"1\"} 8\nrelaymesh_a 4096 1700000000\n";
    assert_eq!(sample(page, "relaymesh_a"), Some(4096.0));
    assert_eq!(sample(page, "relaymesh_b"), None);
}

#[test]
fn series_are_found_by_a_label_and_added_up() {
    let page = "relaymesh_a{x=\"1\",by=\"us\"} 8\nrelaymesh_a{x=\"2\",by=\"us\"} 4\nrelaymesh_a{x=\"1\",by=\"me\"} 1\n\
                relaymesh_ab{by=\"us\"} 100\n";
    let page = MetricsPage(page.to_owned());
    assert_eq!(page.sum("relaymesh_a", "by=\"us\""), 12.0);
    assert_eq!(page.sum("relaymesh_a", "by=\"none\""), 0.0);
    assert_eq!(page.value("relaymesh_a{x=\"2\",by=\"us\"}").unwrap(), 4.0);
    assert!(page.value("relaymesh_a").is_err());
}

#[test]
fn a_line_in_kilobytes_is_read_as_bytes() {
    let status = "VmRSS:\t   20000 kB\nRssAnon:\t     120 kB\n";
    assert_eq!(kib_of(status, "RssAnon:"), Some(120 * 1024));
    assert_eq!(kib_of(status, "RssShmem:"), None);
}
