//! Live lines of several runs at once, each with its name in front.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use anyhow::Result;
use tokio::task::JoinSet;

use crate::{api::Run, client::Client, command::run::follow_log};

/// One colour a run, so that lines which belong together show it.
const COLOURS: [u8; 6] = [36, 33, 35, 32, 34, 31];

pub(super) struct Follower {
    client: Client,
    tasks: Mutex<JoinSet<()>>,
    next: AtomicUsize,
}

impl Follower {
    pub(super) fn new(client: &Client) -> Arc<Self> {
        Arc::new(Self {
            client: client.clone(),
            tasks: Mutex::default(),
            next: AtomicUsize::new(0),
        })
    }

    /// Shows what the run prints, until it is over.
    pub(super) fn follow(&self, run: &Run, what: &str) {
        let place = self.next.fetch_add(1, Ordering::Relaxed);
        let colour = COLOURS[place % COLOURS.len()];
        let name = match run.kind.as_str() {
            "build" => format!("{} build", run.pipelinename),
            _ => format!("{}/{} {what}", run.pipelinename, run.id),
        };
        let front = format!("\u{1b}[{colour}m{name:<28}\u{1b}[0m│ ");
        let (client, id) = (self.client.clone(), run.uniqueid.clone());
        let show = async move {
            if let Err(error) = lines(&client, &id, &front).await {
                anstream::println!("{front}(its log cannot be followed: {error:#})");
            }
        };
        self.tasks.lock().expect("no task panics while it holds this").spawn(show);
    }

    /// Waits until everything that was printed is shown.
    pub(super) async fn finish(&self) {
        let mut tasks =
            std::mem::take(&mut *self.tasks.lock().expect("no task panics while it holds this"));
        while tasks.join_next().await.is_some() {}
    }
}

async fn lines(client: &Client, run: &str, front: &str) -> Result<()> {
    let mut rest = String::new();
    follow_log(client, run, "", |piece| {
        rest.push_str(piece);
        while let Some(end) = rest.find('\n') {
            let line: String = rest.drain(..=end).collect();
            anstream::println!("{front}{}", shortened(line.trim_end()));
        }
        Ok(())
    })
    .await?;
    if !rest.is_empty() {
        anstream::println!("{front}{}", shortened(&rest));
    }
    Ok(())
}

/// One line of a terminal is enough to see that something happens.
fn shortened(line: &str) -> String {
    const MOST: usize = 110;
    if line.chars().count() <= MOST {
        return line.to_owned();
    }
    line.chars().take(MOST).chain(['…']).collect()
}
