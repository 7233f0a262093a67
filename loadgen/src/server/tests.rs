use super::*;

#[test]
fn a_sample_is_found_by_its_whole_name() {
    let page = "# TYPE relaymesh_a gauge\nrelaymesh_a_total 9\nrelaymesh_a{x=\"1\"} 8\nrelaymesh_a 4096 1700000000\n";
    assert_eq!(sample(page, "relaymesh_a"), Some(4096.0));
    assert_eq!(sample(page, "relaymesh_b"), None);
}

#[test]
fn the_kernels_accounts_are_read() {
    let meminfo = "MemTotal:       24000000 kB\nSlab:             120 kB\nSReclaimable:     100 kB\n";
    assert_eq!(slab_bytes(meminfo), Some(120 * 1024));
    let sockstat = "sockets: used 16\nTCP: inuse 1 orphan 0 tw 2558 alloc 1 mem 249\nUDP: inuse 0 mem 7\n";
    assert_eq!(tcp_pages(sockstat), Some(249));
    assert_eq!(tcp_pages("UDP: inuse 0 mem 7\n"), None);
}
