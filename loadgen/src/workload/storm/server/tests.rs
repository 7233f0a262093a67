use super::*;

#[test]
fn processor_time_stands_behind_the_name_whatever_that_is() {
    let stat = "7 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 300 40 0 0 20 0 5 0 100 1 2";
    assert_eq!(parse_ticks(stat), Some(340));
    assert_eq!(parse_ticks("7 (a) S 1"), None);
    assert!(ticks_of(std::process::id()).is_some());
}

#[test]
fn where_it_listens_is_read_from_what_it_says() {
    let mut said = &b"hello\nlistening on 127.0.0.1:7\nadmin on 127.0.0.1:8\nmore\n"[..];
    let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
    assert_eq!(listens(&mut said).unwrap(), Some((at(7), at(8))));
    assert_eq!(listens(&mut &b"listening on 127.0.0.1:7\n"[..]).unwrap(), None, "it ended");
}
