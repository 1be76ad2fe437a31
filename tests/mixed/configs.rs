//! A network config that stock flannel takes, ours takes, and means the same by it; one that stock
//! refuses is refused, but for the rows of `docs/compatibility.md`.

use std::time::Duration;

use flannel_tests::agent;
use flannel_tests::bed::BedOptions;
use flannel_tests::cluster::CONFIG;
use flannel_tests::flanneld::Flanneld;
use flannel_tests::wait;

use crate::neighbours::{bed, flanneld};

/// How long it may take until one or the other is clear.
const LIMIT: Duration = Duration::from_secs(20);

/// What comes of a config.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expected {
    /// Both take it, and mean the same by it.
    Taken,
    /// Both refuse it.
    Refused,
    /// Ours takes it, by a row of the document.
    OnlyOurs(&'static str),
    /// Ours refuses it, by a row of the document.
    OnlyStock(&'static str),
}
use Expected::{OnlyOurs, OnlyStock, Refused, Taken};

/// Documents, but for `"Backend":{"Type":"alloc"}` at their end where there is none.
const ROWS: &[(&str, Expected)] = &[
    // The shape of the document.
    (r#"{"Network":"10.5.0.0/16"}"#, Taken),
    (
        r#"{"NETWORK":"10.5.0.0/16","nEtWoRk":"10.6.0.0/16"}"#,
        Taken,
    ),
    (
        r#"{"Network":"10.5.0.0/16","Network":"10.7.0.0/16"}"#,
        Taken,
    ),
    (
        r#"{"Network":"10.5.0.0/16","Unknown":{"a":[1,2,{}]}}"#,
        Taken,
    ),
    (r#"{"Network":"10.5.0.0/16",}"#, Refused),
    (r#"{"Network":"10.5.0.0/16"} and more"#, Refused),
    (r#"["Network","10.5.0.0/16"]"#, Refused),
    (r#"null"#, Refused),
    (r#"{}"#, Refused),
    ("\u{feff}{\"Network\":\"10.5.0.0/16\"}", Refused),
    ("  {\n\t\"Network\" : \"10.5.0.0/16\"\r\n}\n", Taken),
    (r#"{"Network":"10.5.0.0\u002f16"}"#, OnlyOurs("N9")),
    // Networks.
    (r#"{"Network":"10.5.3.4/16"}"#, Taken),
    (r#"{"Network":"10.5.0.0"}"#, Refused),
    (r#"{"Network":"10.5.0.0/33"}"#, Refused),
    (r#"{"Network":"10.05.0.0/16"}"#, Refused),
    (r#"{"Network":" 10.5.0.0/16"}"#, Refused),
    (r#"{"Network":"10.5.0.0/016"}"#, Taken),
    (r#"{"Network":""}"#, Refused),
    (r#"{"Network":null}"#, Refused),
    (r#"{"Network":16}"#, Refused),
    (r#"{"Network":"fd00::/48"}"#, Refused),
    (
        r#"{"Network":"0.0.0.0/0","SubnetMin":"10.5.0.0","SubnetMax":"10.5.9.0"}"#,
        Refused,
    ),
    (r#"{"Network":"0.0.0.0/8"}"#, Taken),
    (r#"{"Network":"10.0.0.0/8"}"#, Taken),
    // Lengths.
    (r#"{"Network":"10.5.0.0/22"}"#, Taken),
    (r#"{"Network":"10.5.0.0/23"}"#, Taken),
    (r#"{"Network":"10.5.0.0/28"}"#, Taken),
    (r#"{"Network":"10.5.0.0/29"}"#, OnlyOurs("N1")),
    (r#"{"Network":"10.5.0.0/16","SubnetLen":18}"#, Taken),
    (
        r#"{"Network":"10.5.0.0/16","SubnetLen":17}"#,
        OnlyOurs("N1"),
    ),
    (r#"{"Network":"10.5.0.0/16","SubnetLen":30}"#, Taken),
    (
        r#"{"Network":"10.5.0.0/16","SubnetLen":31}"#,
        OnlyOurs("N1"),
    ),
    (r#"{"Network":"10.5.0.0/16","SubnetLen":32}"#, Refused),
    (r#"{"Network":"10.5.0.0/16","SubnetLen":0}"#, Taken),
    (r#"{"Network":"10.5.0.0/16","SubnetLen":-1}"#, Refused),
    (r#"{"Network":"10.5.0.0/16","SubnetLen":24.0}"#, Refused),
    (r#"{"Network":"10.5.0.0/16","SubnetLen":2.4e1}"#, Refused),
    (r#"{"Network":"10.5.0.0/16","SubnetLen":"24"}"#, Refused),
    (r#"{"Network":"10.5.0.0/16","SubnetLen":null}"#, Taken),
    (
        r#"{"Network":"10.5.0.0/16","SubnetLen":18446744073709551616}"#,
        Refused,
    ),
    // Bounds.
    (
        r#"{"Network":"10.5.0.0/16","SubnetMin":"10.5.8.0","SubnetMax":"10.5.8.0"}"#,
        Taken,
    ),
    (
        r#"{"Network":"10.5.0.0/16","SubnetMin":"10.5.0.0","SubnetMax":"10.5.0.0"}"#,
        Taken,
    ),
    (
        r#"{"Network":"10.5.0.0/16","SubnetMin":"10.5.255.0"}"#,
        Taken,
    ),
    (
        r#"{"Network":"10.5.0.0/16","SubnetMin":"10.6.0.0"}"#,
        Refused,
    ),
    (
        r#"{"Network":"10.5.0.0/16","SubnetMax":"10.4.255.0"}"#,
        Refused,
    ),
    (
        r#"{"Network":"10.5.0.0/16","SubnetMin":"10.5.8.1"}"#,
        OnlyOurs("N1"),
    ),
    (
        r#"{"Network":"10.5.0.0/16","SubnetMax":"10.5.8.1"}"#,
        OnlyOurs("N1"),
    ),
    (
        r#"{"Network":"10.5.0.0/16","SubnetMin":"10.5.9.0","SubnetMax":"10.5.8.0"}"#,
        Refused,
    ),
    (
        r#"{"Network":"10.5.0.0/16","SubnetMin":"10.5.8.0/24"}"#,
        Refused,
    ),
    (r#"{"Network":"10.5.0.0/16","SubnetMin":""}"#, Refused),
    (r#"{"Network":"10.5.0.0/16","SubnetMin":"0.0.0.0"}"#, Taken),
    // Switches.
    (r#"{"Network":"10.5.0.0/16","EnableIPv4":true}"#, Taken),
    (r#"{"Network":"10.5.0.0/16","EnableIPv4":"true"}"#, Refused),
    (r#"{"Network":"10.5.0.0/16","EnableIPv4":null}"#, Taken),
    (r#"{"Network":"10.5.0.0/16","EnableNFTables":true}"#, Taken),
    (r#"{"Network":"10.5.0.0/16","EnableNFTables":1}"#, Refused),
    (
        r#"{"Network":"10.5.0.0/16","IPv6Network":"fd00::/48"}"#,
        Taken,
    ),
    // Backends.
    (r#"{"Network":"10.5.0.0/16","Backend":{}}"#, Refused),
    (r#"{"Network":"10.5.0.0/16","Backend":null}"#, Refused),
    (r#"{"Network":"10.5.0.0/16","Backend":"vxlan"}"#, Refused),
    (
        r#"{"Network":"10.5.0.0/16","Backend":{"Type":"nothing"}}"#,
        Refused,
    ),
    (r#"{"Network":"10.5.0.0/16","Backend":{"Type":7}}"#, Refused),
    (
        r#"{"Network":"10.5.0.0/16","Backend":{"type":"ALLOC"}}"#,
        Taken,
    ),
    (
        r#"{"Network":"10.5.0.0/16","Backend":{"Type":"Host-GW"}}"#,
        Taken,
    ),
    (
        r#"{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan","VNI":"1"}}"#,
        Refused,
    ),
    (
        r#"{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan","VNI":16777216}}"#,
        Refused,
    ),
    (
        r#"{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan","VNI":-1}}"#,
        Refused,
    ),
    (
        r#"{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan","Port":65536}}"#,
        OnlyStock("B1"),
    ),
    (
        r#"{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan","vni":77,"PORT":4789}}"#,
        Taken,
    ),
    (
        r#"{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan","VNI":null,"MTU":null}}"#,
        Taken,
    ),
    (
        r#"{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan","MTU":1280,"VNI":78}}"#,
        Taken,
    ),
    (
        r#"{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan","DirectRouting":"yes"}}"#,
        Refused,
    ),
    (
        r#"{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan","GBP":1}}"#,
        Refused,
    ),
    (
        r#"{"Network":"10.5.0.0/16","Backend":{"Type":"udp","Port":"8285"}}"#,
        Refused,
    ),
];

fn document(text: &str) -> String {
    let is_object = text.trim_start().starts_with('{') && text.trim_end().ends_with('}');
    if text.to_lowercase().contains("backend") || !is_object || text == "{}" {
        return text.to_owned();
    }
    let end = text.rfind('}').expect("an object");
    format!(r#"{},"Backend":{{"Type":"alloc"}}}}"#, &text[..end])
}

/// What a program makes of a config: the subnet file, with the subnet's length alone, or nothing.
fn made_of_it(program: &mut Flanneld) -> Option<String> {
    program.start().expect("start");
    let made = wait::until("a subnet file or a complaint", LIMIT, || {
        if let Some(text) = program.subnet_file()? {
            return Ok(Some(Some(without_subnet(&text))));
        }
        Ok(program.has_complained()?.then_some(None))
    });
    let made = made.unwrap_or_else(|error| panic!("{error:#}\n{}", program.log_tail()));
    program.kill().expect("end");
    program.forget().expect("remove its files");
    made
}

/// Which subnet it is, chance decides.
fn without_subnet(text: &str) -> String {
    let length = |line: &str| match line.strip_prefix("FLANNEL_SUBNET=") {
        Some(subnet) => format!(
            "FLANNEL_SUBNET=/{}\n",
            subnet.rsplit('/').next().unwrap_or("")
        ),
        None => format!("{line}\n"),
    };
    text.lines().map(length).collect()
}

#[test]
fn network_configs_are_taken_and_refused_as_by_stock() {
    let bed = bed(CONFIG, BedOptions::default());
    let agent = agent::binary().expect("agent");
    let mut stock = flanneld(&bed.hosts[0]);
    let mut ours = Flanneld::new(&bed.hosts[1], &agent);
    let mut wrong = Vec::new();
    for (number, (text, expected)) in ROWS.iter().enumerate() {
        let config = document(text);
        // Each has the network to itself.
        for (name, program) in [("stock", &mut stock), ("ours", &mut ours)] {
            let prefix = format!("/{name}/{number}");
            bed.etcd
                .put(&format!("{prefix}/config"), &config)
                .expect("network config");
            program.flags = vec![format!("-etcd-prefix={prefix}")];
        }
        let (by_stock, by_ours) = (made_of_it(&mut stock), made_of_it(&mut ours));
        let is_right = match expected {
            Taken => by_stock.is_some() && by_ours == by_stock,
            Refused => by_stock.is_none() && by_ours.is_none(),
            OnlyOurs(_) => by_stock.is_none() && by_ours.is_some(),
            OnlyStock(_) => by_stock.is_some() && by_ours.is_none(),
        };
        if !is_right {
            wrong.push(format!(
                "{config}: {expected:?}\n  stock: {by_stock:?}\n  ours: {by_ours:?}"
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
