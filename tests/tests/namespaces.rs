//! Dukes and queens on network hosts of their own: network namespaces, whose links may be cut and restored.
//!
//! `DISTWASM_CUT_SECONDS` says for how long. From 20 seconds on, the connection is given up and the duke comes back.
//! With less, the connection survives.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test ends where its expectation does, and says that it was skipped"
)]

use std::{
    process::{Command, id},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::Duration,
};

use distwasm_tests::real::{Place, Process, guest, programs, until};

/// A namespace with one link to this machine's namespace.
struct Host {
    name: String,
    /// This machine's end of the link.
    link: String,
    /// This machine's address there.
    address: String,
}

fn ip(args: &str) -> bool {
    Command::new("ip").args(args.split(' ')).output().is_ok_and(|output| output.status.success())
}

impl Host {
    /// Makes a host. `None` if this machine does not allow it.
    fn new() -> Option<Host> {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let made = MADE.fetch_add(1, Ordering::Relaxed);
        let (name, link) = (format!("distwasm-{}-{made}", id()), format!("dw{}-{made}", id()));
        // One of 16,384 small networks that should not be in use.
        let number = id().wrapping_mul(4).wrapping_add(made);
        let (high, low) = (number >> 6 & 255, (number & 63) << 2);
        let network = format!("10.231.{high}");
        let made = ip(&format!("netns add {name}"))
            && ip(&format!("link add {link} type veth peer name eth0 netns {name}"))
            && ip(&format!("addr add {network}.{}/30 dev {link}", low + 1))
            && ip(&format!("link set {link} up"))
            && ip(&format!("-n {name} addr add {network}.{}/30 dev eth0", low + 2))
            && ip(&format!("-n {name} link set eth0 up"));
        let host = Host { name, link, address: format!("{network}.{}", low + 1) };
        made.then_some(host)
    }

    /// A command that runs this line of a shell there.
    fn shell(&self, line: &str, place: &Place) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, "sh", "-c", line]);
        let path = std::env::var("PATH").unwrap();
        command.env("PATH", format!("{}:{path}", programs().display()));
        command.env("DISTWASM_CACHE", place.path().join("cache"));
        command
    }

    /// Limits what the link carries, in both directions. Returns whether this machine can do that.
    fn throttle(&self, rate: &str) -> bool {
        let limit = |place: &[&str], device: &str| {
            let words =
                ["qdisc", "add", "dev", device, "root", "tbf", "rate", rate, "burst", "16kb", "latency", "400ms"];
            let line = [place, &["tc"], &words].concat();
            let (program, args) = line.split_first().unwrap();
            Command::new(program).args(args).output().is_ok_and(|output| output.status.success())
        };
        limit(&[], &self.link) && limit(&["ip", "netns", "exec", &self.name], "eth0")
    }

    /// How many bytes have gone over the link to the host.
    fn bytes_sent(&self) -> u64 {
        let path = format!("/sys/class/net/{}/statistics/tx_bytes", self.link);
        std::fs::read_to_string(path).unwrap().trim().parse().unwrap()
    }

    /// Cuts the link for this time.
    fn cut(&self, time: Duration) {
        assert!(ip(&format!("link set {} down", self.link)));
        thread::park_timeout(time);
        assert!(ip(&format!("link set {} up", self.link)));
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // The link goes with the namespace.
        ip(&format!("netns del {}", self.name));
    }
}

#[test]
fn a_host_that_is_cut_off_loses_nothing() {
    let Some(host) = Host::new() else {
        return println!("==== SKIPPED: no network namespace can be made here (`ip netns`, as root)");
    };
    let seconds = std::env::var("DISTWASM_CUT_SECONDS").map_or(2, |seconds| seconds.parse().unwrap());
    let place = Place::default();
    for number in 0..150 {
        place.write(number.to_string(), "50 ms");
    }
    let king = place.king_with(&["--insecure", "--listen", &format!("{}:0", host.address)]);
    let mut duke = Command::new("ip");
    duke.args(["netns", "exec", &host.name])
        .arg(programs().join("duke"))
        .env("DISTWASM_CACHE", place.path().join("cache"));
    duke.args(["--king-address", &king.address, "--insecure", "--num-cpus", "2", "--ram-limit", "2048"]);
    let duke = Process::start(&mut duke, "duke", place.path());
    let queen = place.start_queen(&king, guest("world.wat"), &["--insecure"]);
    until("outputs", || (place.outputs_count() > 20).then_some(()), || duke.log());
    host.cut(Duration::from_secs(seconds));
    queen.finish().expect(0, &["150 done", "0 failed"]);
    let attempts = king.metric("distwasm_attempts_total");
    // Orders in transit when the link was cut may be repeated; units that ran are not run again.
    assert!(attempts <= 165, "{attempts} attempts for 150 units");
    assert_eq!(king.process.log().contains("a duke came back"), seconds >= 20);
}

#[test]
fn nobody_waits_for_what_is_on_its_way_behind_a_slow_link() {
    let Some(host) = Host::new().filter(|host| host.throttle("2mbit")) else {
        return println!("==== SKIPPED: no slow link can be made here (`ip netns` and `tc qdisc ... tbf`, as root)");
    };
    let place = Place::default();
    (0..3000).for_each(|number: u32| place.write(number.to_string(), [b'x'; 9000]));
    let king = place.king_with(&["--insecure", "--listen", &format!("{}:0", host.address)]);
    let duke = ["--king-address", &king.address, "--insecure", "--num-cpus", "2", "--ram-limit", "1024"].join(" ");
    let _good = place.duke(&king, &["--insecure"]);
    let _slow = Process::start(&mut host.shell(&format!("exec duke {duke}"), &place), "slow duke", place.path());
    let joined = || king.process.log().matches("a duke joined").count();
    until("two dukes", || (joined() == 2).then_some(()), || king.process.log());
    let before = host.bytes_sent();
    place.queen(guest("count.wat"), &["--king-address", &king.address, "--insecure"]).expect(0, &["3000 done"]);
    let sent = host.bytes_sent() - before;
    // What is on its way at the end is done elsewhere, and that is little: no pile has gathered.
    let attempts = king.metric("distwasm_attempts_total");
    assert!((3000..3060).contains(&attempts), "{attempts} attempts for 3000 units");
    assert!(sent > 9_000, "the slow duke got no unit: {sent} bytes were sent to it");
}

#[test]
fn two_hosts_join_by_the_lines_that_the_king_prints() {
    let (Some(one), Some(two)) = (Host::new(), Host::new()) else {
        return println!("==== SKIPPED: no network namespaces can be made here (`ip netns`, as root)");
    };
    let place = Place::default();
    let king = place.king_with(&["--listen", "0.0.0.0:0", "--advertise", &one.address]);
    let lines = until(
        "the two lines",
        || Some(king.process.stdout()).filter(|out| out.lines().count() == 2),
        || king.process.log(),
    );
    let (duke, queen) = lines.trim().split_once('\n').unwrap();
    let _duke = Process::start(&mut one.shell(&format!("exec env {duke}"), &place), "duke", place.path());
    place.write_sums(50);
    // The king has another address there.
    let queen = queen.replace(&one.address, &two.address);
    let (queen, _) = queen.split_once(" --binary").unwrap_or((&queen, ""));
    let run = format!(
        "exec env {queen} --binary {} --input {} --output {} --project sums",
        guest("summer.wasm").display(),
        place.input().display(),
        place.output().display()
    );
    let queen = Process::start(&mut two.shell(&run, &place), "queen", place.path());
    queen.finish().expect(0, &["50 done"]);
    // Without a token nothing is to be had there.
    let bare = format!("exec queen jobs --king-address {}", king.address.replace("0.0.0.0", &two.address));
    Process::start(&mut two.shell(&bare, &place), "bare", place.path()).finish().expect(2, &["token"]);
}
