//! A bad line between this network and another one: a network namespace, and two TUN devices whose packets
//! pass through this process, late, slowly, in another order, or not at all.
//!
//! Needs root and `/dev/net/tun`. Everything goes with [`Line`].

use std::{
    net::Ipv4Addr,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, sleep_until},
};
use tokio_tun::Tun;

/// What fits into one packet.
const MTU: i32 = 1400;
/// Bytes that wait before a slow line; what comes then is lost.
const QUEUE: u64 = 64 << 10;
const UDP: u8 = 17;

/// How bad it is.
#[derive(Clone, Copy, Debug)]
pub struct Weather {
    /// One way.
    pub delay: Duration,
    /// Of a thousand packets.
    pub lost: u64,
    /// How many are lost in a row.
    pub burst: u64,
    /// Of a thousand packets, those that come three times as late.
    pub overtaken: u64,
    /// Bits a second, each way.
    pub rate: Option<u64>,
    pub udp: bool,
    /// Whether anything passes.
    pub up: bool,
}

pub const FINE: Weather = Weather {
    delay: Duration::from_millis(1),
    lost: 0,
    burst: 1,
    overtaken: 0,
    rate: None,
    udp: true,
    up: true,
};

/// What came out at the end of one direction.
#[derive(Debug, Default)]
pub struct Passed {
    pub udp: AtomicU64,
    pub other: AtomicU64,
    pub lost: AtomicU64,
}

impl Passed {
    /// Bytes.
    pub fn bytes(&self) -> (u64, u64) {
        (self.udp.load(Ordering::Relaxed), self.other.load(Ordering::Relaxed))
    }
}

#[derive(Debug)]
pub struct Line {
    namespace: String,
    /// The device there.
    device: String,
    net: [u8; 3],
    /// Of the other end's address.
    host: AtomicUsize,
    weather: watch::Sender<Weather>,
    /// From the namespace to here, and to the namespace.
    pub up: Arc<Passed>,
    pub down: Arc<Passed>,
    _tasks: JoinSet<()>,
}

impl Line {
    /// Makes the namespace and joins it to this one.
    pub fn new(weather: Weather) -> Result<Self> {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let (process, number) = (std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let namespace = format!("gaia-{process}-{number}");
        // Not what a network here is likely to have.
        let net = [10, 200 + (process % 50) as u8, (process / 50 % 8) as u8 * 32 + number as u8];
        let (here, device) = (format!("gh{process}-{number}"), format!("gt{process}-{number}"));
        let (near, far) = (tun(&here)?, tun(&device)?);
        ip(&["netns", "add", &namespace])?;
        let (weather, seen) = watch::channel(weather);
        let (up, down) = (Arc::<Passed>::default(), Arc::<Passed>::default());
        let way = |from: &Arc<Tun>, to: &Arc<Tun>, passed: &Arc<Passed>, seed| Way {
            from: Arc::clone(from),
            to: Arc::clone(to),
            weather: seen.clone(),
            passed: Arc::clone(passed),
            dice: seed,
            losing: 0,
            free: Instant::now(),
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(way(&far, &near, &up, 42).carry());
        tasks.spawn(way(&near, &far, &down, 43).carry());
        let host = AtomicUsize::new(2);
        let line = Self { namespace, device, net, host, weather, up, down, _tasks: tasks };
        ip(&["link", "set", &line.device, "netns", &line.namespace])?;
        ip(&["address", "add", &format!("{}/24", line.address()), "dev", &here])?;
        ip(&["link", "set", &here, "up"])?;
        line.there(&["link", "set", "lo", "up"])?;
        line.there(&["link", "set", &line.device, "up"])?;
        line.there(&["address", "add", &format!("{}/24", line.other()), "dev", &line.device])?;
        Ok(line)
    }

    /// What a program is started by, to run there.
    pub fn prefix(&self) -> [&str; 4] {
        ["ip", "netns", "exec", &self.namespace]
    }

    /// Of this end.
    pub fn address(&self) -> Ipv4Addr {
        let [a, b, c] = self.net;
        Ipv4Addr::new(a, b, c, 1)
    }

    fn other(&self) -> Ipv4Addr {
        let [a, b, c] = self.net;
        Ipv4Addr::new(a, b, c, self.host.load(Ordering::Relaxed) as u8)
    }

    pub fn change(&self, change: impl FnOnce(&mut Weather)) {
        self.weather.send_modify(change);
    }

    /// The other end leaves its address and gets a new one, as when a train leaves the Wi-Fi.
    pub fn move_other(&self) -> Result<()> {
        self.there(&["address", "del", &format!("{}/24", self.other()), "dev", &self.device])?;
        self.host.fetch_add(1, Ordering::Relaxed);
        self.there(&["address", "add", &format!("{}/24", self.other()), "dev", &self.device])
    }

    fn there(&self, words: &[&str]) -> Result<()> {
        ip(&[&["-netns", &self.namespace], words].concat())
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        // The devices go with their files.
        if let Err(error) = ip(&["netns", "delete", &self.namespace]) {
            eprintln!("{error:#}");
        }
    }
}

fn tun(name: &str) -> Result<Arc<Tun>> {
    let made = Tun::builder().name(name).mtu(MTU).build();
    let mut queues = made.with_context(|| format!("make the TUN device {name}"))?;
    Ok(Arc::new(queues.pop().context("a device has a queue")?))
}

fn ip(words: &[&str]) -> Result<()> {
    let output = Command::new("ip").args(words).output().context("run ip")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "ip {}: {said}", words.join(" "));
    Ok(())
}

/// One direction.
struct Way {
    from: Arc<Tun>,
    to: Arc<Tun>,
    weather: watch::Receiver<Weather>,
    passed: Arc<Passed>,
    /// Seeded, so that a run of a test is like the one before.
    dice: u64,
    /// How many more are lost of a burst.
    losing: u64,
    /// When a slow line can take the next packet.
    free: Instant,
}

type Packet = (Instant, Vec<u8>);

impl Way {
    async fn carry(mut self) {
        let (queue, queued) = mpsc::unbounded_channel();
        // Those that are overtaken hold up nobody.
        let (late, lates) = mpsc::unbounded_channel();
        let (to, passed) = (Arc::clone(&self.to), Arc::clone(&self.passed));
        let reading = async move {
            let mut packet = vec![0; 2 * MTU as usize];
            while let Ok(length) = self.from.recv(&mut packet).await {
                let weather = *self.weather.borrow();
                let packet = packet[..length].to_vec();
                let sent = match self.fate(weather, &packet) {
                    None => {
                        self.passed.lost.fetch_add(1, Ordering::Relaxed);
                        Ok(())
                    }
                    Some(leaves) if self.throw() < weather.overtaken => {
                        late.send((leaves + 3 * weather.delay, packet))
                    }
                    Some(leaves) => queue.send((leaves + weather.delay, packet)),
                };
                if sent.is_err() {
                    return;
                }
            }
        };
        tokio::join!(reading, deliver(queued, &to, &passed), deliver(lates, &to, &passed));
    }

    /// When the packet leaves the line, if it does.
    fn fate(&mut self, weather: Weather, packet: &[u8]) -> Option<Instant> {
        if !weather.up || (protocol(packet) == UDP && !weather.udp) {
            return None;
        }
        if self.losing > 0 {
            self.losing -= 1;
            return None;
        }
        if self.throw() * weather.burst < weather.lost {
            self.losing = weather.burst - 1;
            return None;
        }
        let now = Instant::now();
        let Some(rate) = weather.rate else { return Some(now) };
        let takes = |bytes: u64| Duration::from_nanos(bytes * 8 * 1_000_000_000 / rate);
        let begins = self.free.max(now);
        if begins - now > takes(QUEUE) {
            return None;
        }
        self.free = begins + takes(packet.len() as u64);
        Some(self.free)
    }

    /// From 0 to 999.
    fn throw(&mut self) -> u64 {
        self.dice = self.dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.dice >> 33) % 1000
    }
}

async fn deliver(mut packets: mpsc::UnboundedReceiver<Packet>, to: &Tun, passed: &Passed) {
    while let Some((due, packet)) = packets.recv().await {
        sleep_until(due).await;
        let count = if protocol(&packet) == UDP { &passed.udp } else { &passed.other };
        count.fetch_add(packet.len() as u64, Ordering::Relaxed);
        // One that cannot be delivered is one that was lost.
        to.send(&packet).await.ok();
    }
}

/// Of an IPv4 packet.
fn protocol(packet: &[u8]) -> u8 {
    match packet.first() {
        Some(first) if first >> 4 == 4 => packet.get(9).copied().unwrap_or_default(),
        _ => 0,
    }
}
