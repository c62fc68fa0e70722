//! A bad network in this process: UDP between clients and a server, late and incomplete. TCP cannot lose
//! anything here, as the kernel carries it; for that it takes an emulator below it.

use std::{collections::HashMap, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Result;
use tokio::{
    net::UdpSocket,
    sync::mpsc,
    task::AbortHandle,
    time::{Instant, sleep_until},
};

const LARGEST: usize = 65_536;
/// What is on its way; a router drops what comes beyond.
const QUEUE: usize = 4096;

/// A port that passes on to another; dropped, it is gone.
#[derive(Debug)]
pub struct Relay {
    pub address: SocketAddr,
    task: AbortHandle,
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Packets that are to be late.
type Late = mpsc::Sender<(Instant, Vec<u8>, SocketAddr)>;

impl Relay {
    /// `delay`: one way. `lost`: of a thousand packets.
    pub async fn to(server: SocketAddr, delay: Duration, lost: u64) -> Result<Self> {
        let front = Arc::new(UdpSocket::bind("127.0.0.1:0").await?);
        let address = front.local_addr()?;
        let task = tokio::spawn(async move {
            let back = late(Arc::clone(&front));
            let (mut routes, mut dice) = (HashMap::<SocketAddr, Late>::new(), Dice(42));
            let mut packet = vec![0; LARGEST];
            loop {
                // An error tells of a packet that was sent before.
                let Ok((length, client)) = front.recv_from(&mut packet).await else { continue };
                let route = match routes.get(&client) {
                    Some(route) => route.clone(),
                    None => match route(client, back.clone(), delay, lost).await {
                        Ok(route) => routes.entry(client).or_insert(route).clone(),
                        Err(_) => continue,
                    },
                };
                if !dice.is_lost(lost) {
                    route.try_send((now() + delay, packet[..length].to_vec(), server)).ok();
                }
            }
        });
        Ok(Self { address, task: task.abort_handle() })
    }
}

/// The server sees each client at an address of its own.
async fn route(client: SocketAddr, back: Late, delay: Duration, lost: u64) -> Result<Late> {
    let socket = Arc::new(UdpSocket::bind("127.0.0.1:0").await?);
    let there = late(Arc::clone(&socket));
    tokio::spawn(async move {
        let (mut packet, mut dice) = (vec![0; LARGEST], Dice(43));
        while !back.is_closed() {
            let Ok((length, _)) = socket.recv_from(&mut packet).await else { continue };
            if !dice.is_lost(lost) {
                back.try_send((now() + delay, packet[..length].to_vec(), client)).ok();
            }
        }
    });
    Ok(there)
}

fn late(socket: Arc<UdpSocket>) -> Late {
    let (sender, mut packets) = mpsc::channel::<(Instant, Vec<u8>, SocketAddr)>(QUEUE);
    tokio::spawn(async move {
        while let Some((due, packet, to)) = packets.recv().await {
            sleep_until(due).await;
            socket.send_to(&packet, to).await.ok();
        }
    });
    sender
}

fn now() -> Instant {
    crate::now().into()
}

/// Seeded, so that a run is like the one before.
struct Dice(u64);

impl Dice {
    fn is_lost(&mut self, of_a_thousand: u64) -> bool {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.0 >> 33) % 1000 < of_a_thousand
    }
}
