//! The tunnel device and its address.

use flannel_agent::backend::vxlan::device::{
    DeviceChange, DeviceError, DeviceSpec, KnownAs, ensure_device, remove_device,
};
use flannel_agent::netlink::{MacAddr, Netlink, errno};

use super::bed::{device, in_namespace, json, run, spec};

#[test]
fn a_new_device_has_exactly_the_attributes_of_flannel() {
    in_namespace(async || {
        let netlink = Netlink::open().unwrap();
        let device = device(&netlink).await;
        assert_eq!((device.mtu, device.vni, device.port), (1450, 1, 8472));
        assert_eq!(device.mac, MacAddr([2, 0, 0, 0, 0, 1]));

        let made = json("ip -d -j link show flannel.1");
        // The same by hand, with another VNI, says what everything else defaults to.
        run(
            "ip link add twin mtu 1450 txqueuelen 0 type vxlan id 2 dev eth0 local 192.168.7.11 nolearning",
        );
        run("ip link set twin up");
        let mut twin = json("ip -d -j link show twin");
        twin["linkinfo"]["info_data"]["id"] = 1.into();
        twin["linkinfo"]["info_data"]["port"] = 8472.into();
        assert_eq!(made["linkinfo"], twin["linkinfo"]);
        assert_eq!(made["linkinfo"]["info_data"]["local"], "192.168.7.11");
        assert_eq!(made["linkinfo"]["info_data"]["link"], "eth0");
        assert_eq!(made["linkinfo"]["info_data"]["learning"], false);
        assert_eq!(made["linkinfo"]["info_data"]["udp_csum"], true);
        for key in ["mtu", "txqlen", "flags", "qdisc", "inet6_addr_gen_mode"] {
            assert_eq!(made[key], twin[key], "{key}");
        }
        assert_eq!(made["address"], "02:00:00:00:00:01");

        let addresses = run("ip -4 -o addr show dev flannel.1");
        assert_eq!(addresses.len(), 1);
        assert!(addresses[0].contains("inet 10.5.1.0/32 scope global flannel.1"));
        assert_eq!(
            run("cat /proc/sys/net/ipv6/conf/flannel.1/accept_ra"),
            ["0"]
        );
    });
}

#[test]
fn a_device_that_fits_is_kept_and_what_can_be_is_adjusted() {
    in_namespace(async || {
        let netlink = Netlink::open().unwrap();
        let first = device(&netlink).await;
        let mut spec = spec(&netlink).await;
        // A MAC of one's own is kept, whatever the caller would choose.
        spec.mac = MacAddr([2, 0, 0, 0, 0, 99]);
        let before = run("ip -d link show flannel.1");
        let kept = ensure_device(&netlink, &spec, KnownAs::Itself)
            .await
            .unwrap();
        assert_eq!(kept, (first.clone(), DeviceChange::Kept));
        assert_eq!(run("ip -d link show flannel.1"), before);

        spec.mtu = 1400;
        spec.learning = true;
        let (adjusted, change) = ensure_device(&netlink, &spec, KnownAs::Itself)
            .await
            .unwrap();
        assert_eq!(change, DeviceChange::Adjusted);
        assert_eq!((adjusted.index, adjusted.mtu), (first.index, 1400));
        let shown = json("ip -d -j link show flannel.1");
        assert_eq!(shown["linkinfo"]["info_data"]["learning"], true);
        assert_eq!(shown["mtu"], 1400);
        let again = ensure_device(&netlink, &spec, KnownAs::Itself)
            .await
            .unwrap();
        assert_eq!(again.1, DeviceChange::Kept);
    });
}

#[test]
fn a_device_with_another_port_or_source_is_made_anew_with_its_mac() {
    in_namespace(async || {
        let netlink = Netlink::open().unwrap();
        let first = device(&netlink).await;
        run("ip addr add 192.168.7.12/24 dev eth0");
        let base = spec(&netlink).await;
        let mac = MacAddr([2, 0, 0, 0, 0, 99]);
        let changes: [fn(&mut DeviceSpec); 3] = [
            |spec| spec.port = Some(4789),
            |spec| spec.local = [192, 168, 7, 12].into(),
            |spec| spec.gbp = true,
        ];
        let mut index = first.index;
        for change in changes {
            let mut spec = DeviceSpec {
                mac,
                ..base.clone()
            };
            change(&mut spec);
            let (device, done) = ensure_device(&netlink, &spec, KnownAs::Itself)
                .await
                .unwrap();
            assert_eq!(done, DeviceChange::Recreated);
            assert_ne!(device.index, index);
            assert_eq!(device.mac, first.mac);
            assert_eq!(device.port, spec.port.unwrap_or(8472));
            let (_, again) = ensure_device(&netlink, &spec, KnownAs::Itself)
                .await
                .unwrap();
            assert_eq!(again, DeviceChange::Kept);
            index = device.index;
        }
        // What a stock flannel of another VNI left under our name.
        run("ip link del flannel.1");
        run(
            "ip link add flannel.1 address 02:00:00:00:00:33 type vxlan id 77 dev eth0 local 192.168.7.11 dstport 8472",
        );
        let (device, done) = ensure_device(&netlink, &base, KnownAs::Itself)
            .await
            .unwrap();
        assert_eq!((done, device.vni), (DeviceChange::Recreated, 1));
        assert_eq!(device.mac.to_string(), "02:00:00:00:00:33");
    });
}

#[test]
fn a_foreign_device_is_refused_by_name_and_kind() {
    in_namespace(async || {
        let netlink = Netlink::open().unwrap();
        run("ip link add flannel.1 type bridge");
        let spec = spec(&netlink).await;
        let error = ensure_device(&netlink, &spec, KnownAs::Itself)
            .await
            .unwrap_err();
        assert!(matches!(error, DeviceError::Foreign { .. }));
        let text = error.to_string();
        assert!(
            text.starts_with("flannel.1 exists but is a bridge"),
            "{text}"
        );
        assert!(remove_device(&netlink, "flannel.1").await.is_err());

        run("ip link del flannel.1");
        run("ip link add other type vxlan id 1 dev eth0 dstport 8472");
        let error = ensure_device(&netlink, &spec, KnownAs::Itself)
            .await
            .unwrap_err();
        let text = error.to_string();
        assert!(text.contains("other has VNI 1 on UDP port 8472"), "{text}");

        run("ip link del other");
        ensure_device(&netlink, &spec, KnownAs::Itself)
            .await
            .unwrap();
        assert!(remove_device(&netlink, "flannel.1").await.unwrap());
        assert!(!remove_device(&netlink, "flannel.1").await.unwrap());
    });
}

#[test]
fn a_refusal_says_what_was_tried_and_the_kernels_words() {
    in_namespace(async || {
        let netlink = Netlink::open().unwrap();
        let mut spec = spec(&netlink).await;
        spec.vni = 1 << 24;
        let DeviceError::Netlink(error) = ensure_device(&netlink, &spec, KnownAs::Itself)
            .await
            .unwrap_err()
        else {
            panic!("refused by the kernel");
        };
        assert_eq!(errno(&error), Some(libc::ERANGE));
        let text = error.to_string();
        let expected = "create the vxlan device flannel.1 (kernel: ";
        assert!(text.starts_with(expected), "{text}");
    });
}

#[test]
fn other_addresses_of_the_network_are_removed_and_no_more() {
    in_namespace(async || {
        let netlink = Netlink::open().unwrap();
        device(&netlink).await;
        // flannel up to v0.8 had the network's prefix length; another run, another subnet.
        run("ip addr add 10.5.1.0/16 dev flannel.1");
        run("ip addr add 10.5.9.0/32 dev flannel.1");
        run("ip addr add 192.0.2.1/32 dev flannel.1");
        let device = device(&netlink).await;
        let addresses = netlink.addresses(device.index).await.unwrap();
        let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
        assert_eq!(addresses, ["10.5.1.0/32", "192.0.2.1/32"]);
    });
}
