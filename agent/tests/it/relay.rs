//! A network between an agent and its server, as bad as a test wants it: one port that passes UDP and
//! TCP on, late, incomplete, in another order, or not at all, and from a new address when told so.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, sleep_until},
};
use tokio_util::task::AbortOnDropHandle;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Weather {
    /// One way.
    pub(crate) delay: Duration,
    /// Of a thousand packets of UDP.
    pub(crate) lost: u64,
    /// How many are lost in a row.
    pub(crate) burst: u64,
    /// Of a thousand packets of UDP, those that come three times as late.
    pub(crate) overtaken: u64,
    pub(crate) udp: bool,
    pub(crate) tcp: bool,
}

pub(crate) const FINE: Weather = Weather {
    delay: Duration::from_millis(1),
    lost: 0,
    burst: 1,
    overtaken: 0,
    udp: true,
    tcp: true,
};

#[derive(Debug)]
pub(crate) struct Relay {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

#[derive(Debug)]
struct Shared {
    to: SocketAddr,
    front: UdpSocket,
    weather: watch::Sender<Weather>,
    routes: Mutex<HashMap<SocketAddr, Route>>,
    up: mpsc::UnboundedSender<(Instant, Vec<u8>, Arc<UdpSocket>)>,
    down: mpsc::UnboundedSender<(Instant, Vec<u8>, SocketAddr)>,
    /// Seeded, so that a run of a test is like the one before.
    dice: AtomicU64,
    /// How many more are lost of a burst.
    losing: AtomicU64,
}

/// What the server takes for the client's address.
#[derive(Debug)]
struct Route {
    socket: Arc<UdpSocket>,
    _back: AbortOnDropHandle<()>,
}

impl Relay {
    pub(crate) async fn to(to: SocketAddr, weather: Weather) -> Self {
        let (tcp, front) = loop {
            let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
            if let Ok(front) = UdpSocket::bind(tcp.local_addr().unwrap()).await {
                break (tcp, front);
            }
        };
        let (up, mut ups) = mpsc::unbounded_channel::<(Instant, Vec<u8>, Arc<UdpSocket>)>();
        let (down, mut downs) = mpsc::unbounded_channel::<(Instant, Vec<u8>, SocketAddr)>();
        let address = tcp.local_addr().unwrap();
        let shared = Arc::new(Shared {
            to,
            front,
            weather: watch::Sender::new(weather),
            routes: Mutex::default(),
            up,
            down,
            dice: AtomicU64::new(42),
            losing: AtomicU64::new(0),
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(Arc::clone(&shared).receive());
        tasks.spawn(async move {
            while let Some((due, bytes, socket)) = ups.recv().await {
                sleep_until(due).await;
                // A packet that is refused is a packet that was lost.
                socket.send(&bytes).await.ok();
            }
        });
        let back = Arc::clone(&shared);
        tasks.spawn(async move {
            while let Some((due, bytes, client)) = downs.recv().await {
                sleep_until(due).await;
                back.front.send_to(&bytes, client).await.ok();
            }
        });
        tasks.spawn(accept(tcp, Arc::clone(&shared)));
        Self { address, shared, _tasks: tasks }
    }

    pub(crate) fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    pub(crate) fn change(&self, change: impl FnOnce(&mut Weather)) {
        self.shared.weather.send_modify(change);
    }

    /// From now on the server sees all clients at new addresses, as after a change of the network.
    pub(crate) fn move_clients(&self) {
        self.shared.routes.lock().unwrap().clear();
    }
}

impl Shared {
    async fn receive(self: Arc<Self>) {
        let mut packet = vec![0; 65_536];
        loop {
            // An error tells of a packet that was sent before.
            let Ok((length, client)) = self.front.recv_from(&mut packet).await else { continue };
            let socket = self.route(client);
            if let Some(due) = self.fate() {
                self.up.send((due, packet[..length].to_vec(), socket)).unwrap();
            }
        }
    }

    fn route(self: &Arc<Self>, client: SocketAddr) -> Arc<UdpSocket> {
        let mut routes = self.routes.lock().unwrap();
        let route = routes.entry(client).or_insert_with(|| {
            let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
            socket.connect(self.to).unwrap();
            socket.set_nonblocking(true).unwrap();
            let socket = Arc::new(UdpSocket::from_std(socket).unwrap());
            let (shared, source) = (Arc::downgrade(self), Arc::clone(&socket));
            let back = tokio::spawn(async move {
                let mut packet = vec![0; 65_536];
                loop {
                    let Ok(length) = source.recv(&mut packet).await else { continue };
                    let Some(shared) = shared.upgrade() else { return };
                    if let Some(due) = shared.fate() {
                        shared.down.send((due, packet[..length].to_vec(), client)).ok();
                    }
                }
            });
            Route { socket, _back: AbortOnDropHandle::new(back) }
        });
        Arc::clone(&route.socket)
    }

    /// When a packet arrives, if it does.
    fn fate(&self) -> Option<Instant> {
        let weather = *self.weather.borrow();
        let last = self
            .losing
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        if !weather.udp || last.is_ok() {
            return None;
        }
        if self.throw() * weather.burst < weather.lost {
            self.losing.store(weather.burst - 1, Ordering::Relaxed);
            return None;
        }
        let late = if self.throw() < weather.overtaken { 3 } else { 1 };
        Some(Instant::now() + weather.delay * late)
    }

    /// From 0 to 999.
    fn throw(&self) -> u64 {
        const STEP: u64 = 6_364_136_223_846_793_005;
        let next = |dice: u64| Some(dice.wrapping_mul(STEP).wrapping_add(1));
        let before = self.dice.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
        (before.unwrap() >> 33) % 1000
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut pipes = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        let Ok(server) = TcpStream::connect(shared.to).await else { continue };
        client.set_nodelay(true).unwrap();
        server.set_nodelay(true).unwrap();
        let (client_read, client_write) = client.into_split();
        let (server_read, server_write) = server.into_split();
        let weather = || shared.weather.subscribe();
        pipes.spawn(pipe(client_read, server_write, weather()));
        pipes.spawn(pipe(server_read, client_write, weather()));
    }
}

/// TCP loses nothing; it is late, and stands still for as long as nothing passes.
async fn pipe(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    mut weather: watch::Receiver<Weather>,
) {
    let (queue, mut queued) = mpsc::channel::<(Instant, Vec<u8>)>(64);
    let late = weather.clone();
    let reading = async move {
        let mut piece = vec![0; 16 << 10];
        while let Ok(length @ 1..) = from.read(&mut piece).await {
            let due = Instant::now() + late.borrow().delay;
            if queue.send((due, piece[..length].to_vec())).await.is_err() {
                return;
            }
        }
    };
    let writing = async move {
        while let Some((due, piece)) = queued.recv().await {
            sleep_until(due).await;
            let passes = weather.wait_for(|weather| weather.tcp).await.is_ok();
            if !passes || to.write_all(&piece).await.is_err() {
                return;
            }
        }
        to.shutdown().await.ok();
    };
    tokio::join!(reading, writing);
}
