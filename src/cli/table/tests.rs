use super::*;

#[test]
fn columns_are_as_wide_as_their_widest_cell_and_numbers_stand_right() {
    let rows = [vec!["jobs".to_owned(), "7".to_owned()], vec!["mail-out".to_owned(), "12345".to_owned()]];
    assert_eq!(render(&["QUEUE", "READY"], &rows), "QUEUE     READY\njobs          7\nmail-out  12345\n");
    assert_eq!(render(&["QUEUE"], &[]), "QUEUE\n");
}

#[test]
fn ages_and_sizes_are_short() {
    let ages = [(0, "0s"), (59, "59s"), (125, "2m 5s"), (3600, "1h"), (273_600, "3d 4h")];
    for (seconds, text) in ages {
        assert_eq!(age(Duration::from_secs(seconds)), text);
    }
    for (bytes, text) in [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (16 << 30, "16.0 GiB")] {
        assert_eq!(size(bytes), text);
    }
}

#[test]
fn a_text_of_the_server_cannot_move_the_cursor() {
    assert_eq!(clean("a\x1b[2Jb\nc", 80), "a [2Jb c");
    assert_eq!(clean("abcdef", 4), "abc…");
}
