use super::*;

const RUNS: &str = "publish,1 x 128,RelayMesh,300\npublish,1 x 128,Redis,100\npublish,1 x 128,RelayMesh,500\n\
                    publish,1 x 128,RelayMesh,1000\n\nrss,1 x 128,Redis,12.25\n";

#[test]
fn medians_and_ratios_stand_in_the_table() {
    let runs = Runs::parse(RUNS).expect("runs");
    let tables = runs.tables();
    assert!(
        tables
            .contains("| publish | RelayMesh | Redis |\n|---|---:|---:|\n| 1 x 128 | 500 | 100 (5.00 ×) |\n")
    );
    assert!(tables.contains("| rss | RelayMesh | Redis |"), "{tables}");
    assert!(tables.contains("| 1 x 128 | – | 12.2 |"), "{tables}");
}

#[test]
fn every_run_is_in_the_json() {
    let value = Runs::parse(RUNS).expect("runs").to_json(&["a note".to_owned()]);
    assert_eq!(value["rows"][0]["runs"], json!([300.0, 500.0, 1000.0]));
    assert_eq!(value["rows"][1]["ratio"], json!(5.0));
    assert_eq!(value["notes"][0], "a note");
}

#[test]
fn what_is_no_run_is_named() {
    for text in ["", "publish,x,RelayMesh", "publish,x,RelayMesh,many"] {
        assert!(Runs::parse(text).is_err(), "{text:?}");
    }
}

#[test]
fn numbers_are_readable() {
    let cases =
        [(0.5, "0.50"), (12.25, "12.2"), (999.0, "999"), (1234.4, "1,234"), (1_234_567.0, "1,234,567")];
    for (value, text) in cases {
        assert_eq!(readable(value), text);
    }
    assert_eq!(median(&[3.0, 1.0]), 2.0);
    assert_eq!([2.684, 0.52, 0.0123, 0.000_93].map(two_digits), ["2.68", "0.52", "0.012", "0.00093"]);
}
