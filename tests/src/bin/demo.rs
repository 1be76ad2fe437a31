//! tmp
use std::time::Duration;
use flannel_tests::traffic::*;
fn main() -> anyhow::Result<()> {
    let t = std::time::Instant::now();
    let bed = flannel_tests::by_hand::overlay(Default::default(), 1)?;
    eprintln!("up {:?}", t.elapsed());
    let (a, b) = (&bed.hosts[0], &bed.hosts[1]);
    eprintln!("{}", ping::ping(&a.pods[0].ns, b.pods[0].address, Default::default())?.text);
    for w in [flannel_tests::wire::Wire::Mtu1500, flannel_tests::wire::Wire::SuperPacket] {
        bed.set_wire(w)?;
        let src = flannel_tests::source::Source::new(a, &a.pods[0], &b.pods[0])?;
        for _ in 0..2 { eprintln!("{w} {:?}", src.measure(1, Duration::from_secs(1))?); }
        let s = iperf::Server::start(&b.pods[0], iperf::Placement::Free)?;
        for _ in 0..2 { eprintln!("tcp {}", s.measure(&a.pods[0], Duration::from_secs(1))?); }
        drop(s);
        let s = iperf::Server::start(&b.pods[0], iperf::Placement::OneCore(1))?;
        for _ in 0..2 { eprintln!("tcp one core {}", s.measure(&a.pods[0], Duration::from_secs(1))?); }
        eprintln!("{:?}", latency::measure(&a.pods[0], &b.pods[0], 1, Duration::from_millis(500))?);
        let f = sequence::Flow::start(&a.pods[0], &b.pods[0], 8000, 2000)?;
        stream::check(&a.pods[0], &b.pods[0], 50, 1<<20)?;
        eprintln!("{:?}", f.finish()?);
    }
    if std::env::args().nth(1).is_some() { std::thread::sleep(Duration::from_secs(100)); }
    Ok(())
}
