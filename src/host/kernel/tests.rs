use super::*;

#[test]
fn the_kernels_accounts_are_read() {
    let meminfo = "MemTotal:       24000000 kB\nSlab:             120 kB\nSReclaimable:     100 kB\n";
    assert_eq!(slab_bytes(meminfo), Some(120 * 1024));
    let sockstat = "sockets: used 16\nTCP: inuse 1 orphan 0 tw 2558 alloc 1 mem 249\nUDP: inuse 0 mem 7\n";
    assert_eq!(tcp_pages(sockstat), Some(249));
    assert_eq!(tcp_pages("UDP: inuse 0 mem 7\n"), None);
    if cfg!(target_os = "linux") {
        let bytes = kernel_bytes().expect("Linux tells");
        assert!((1 << 20..1 << 44).contains(&bytes), "{bytes} bytes");
    }
}
