use super::*;

fn raw(text: &str) -> Box<RawValue> {
    RawValue::from_string(text.into()).unwrap()
}

#[test]
fn data_is_written_as_flannel_writes_it() {
    let data = BackendData {
        vni: 1,
        vtep_mac: "5e:1a:0b:33:9c:02".parse().unwrap(),
    };
    let text = r#"{"VNI":1,"VtepMAC":"5e:1a:0b:33:9c:02"}"#;
    assert_eq!(data.to_json().unwrap().get(), text);
    assert_eq!(vtep_mac(Some(&raw(text))), Ok(data.vtep_mac));
}

#[test]
fn data_is_read_leniently() {
    for text in [
        r#"{"VtepMAC":"5e:1a:0b:33:9c:02"}"#,
        r#"{"vtepmac":"5E:1A:0B:33:9C:02","vni":"one"}"#,
        r#" { "VTEPMAC" : "5e-1a-0b-33-9c-02", "New": [1] } "#,
    ] {
        let mac = MacAddr([0x5e, 0x1a, 0x0b, 0x33, 0x9c, 0x02]);
        assert_eq!(vtep_mac(Some(&raw(text))), Ok(mac), "{text}");
    }
}

#[test]
fn the_underlay_mtu_can_be_lowered_but_not_raised() {
    let mtu = device_mtu;
    assert_eq!(mtu(None, 1500), Some(1450));
    assert_eq!(mtu(Some(1400), 1500), Some(1350));
    assert_eq!(mtu(Some(9000), 1500), Some(1450));
    assert_eq!(mtu(None, 117), None);
    assert_eq!(mtu(Some(0), 1500), None);
}
