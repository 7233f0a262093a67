use std::fs::File;

use super::*;

#[test]
fn the_soft_limit_rises_to_the_hard_one_and_never_above() {
    let raised = raise_descriptor_limit();
    assert_eq!(raised.soft, raised.hard);
    assert_eq!(raised, descriptor_limit());
}

#[test]
fn open_descriptors_are_counted() {
    // Other tests of this process open and close descriptors meanwhile: some moment is quiet enough.
    let rises_with_files = |_| {
        let before = open_descriptors().expect("this platform tells");
        let _kept: Vec<File> = (0..200).map(|_| File::open("/dev/null").unwrap()).collect();
        let with_files = open_descriptors().expect("this platform tells");
        (before + 100..before + 300).contains(&with_files)
    };
    assert!((0..1000).any(rises_with_files));
}

#[test]
fn memory_and_time_are_plausible() {
    if cfg!(target_os = "linux") {
        let resident = resident_bytes().expect("Linux tells");
        assert!((1 << 20..1 << 40).contains(&resident), "{resident} bytes");
    }
    let before = cpu_time();
    let mut product = 1_u64;
    while cpu_time() == before {
        product = std::hint::black_box(product.wrapping_mul(3));
    }
    assert!(cores() >= 1);
}

#[test]
fn a_thread_can_be_pinned() {
    if cfg!(target_os = "linux") {
        std::thread::spawn(|| {
            assert!(pin_thread(0));
            assert!(pin_thread(usize::MAX / 2), "counted round");
        })
        .join()
        .unwrap();
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_disk_flushes_that_has_a_cache_and_cannot_write_past_it() {
    let queue = tempfile::tempdir().unwrap();
    let flushes = |write_cache: &str, fua: &str| {
        std::fs::write(queue.path().join("write_cache"), write_cache).unwrap();
        std::fs::write(queue.path().join("fua"), fua).unwrap();
        platform::queue_flushes(queue.path())
    };
    assert_eq!(flushes("write back\n", "0\n"), Some(true));
    assert_eq!(flushes("write back\n", "1\n"), Some(false));
    assert_eq!(flushes("write through\n", "0\n"), Some(false));
    assert_eq!(platform::queue_flushes(&queue.path().join("none")), None);
    assert!(!disk_flushes(std::path::Path::new("/proc")), "no disk");
    assert!(!disk_flushes(&queue.path().join("none")));
}
