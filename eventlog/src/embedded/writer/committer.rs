//! Makes durable, shows, answers: all that touches the newest file while the log is open.

use std::{io, path::PathBuf, sync::Arc, thread};

use tokio::sync::watch;

use super::{Staged, space::Space};
use crate::{
    embedded::{
        Shared,
        format::{SEGMENT_HEADER, SegmentHeader},
        index::{Batch, Fresh, Note},
        recover::Tail,
        segment::Segment,
    },
    event::NewEvent,
};

/// Makes durable, shows, answers.
pub(super) struct Committer {
    dir: PathBuf,
    shared: Arc<Shared>,
    /// `None`: nothing is written any more, and whoever waits for more hears it.
    pub(super) publish: Option<watch::Sender<u64>>,
    segment: Arc<Segment>,
    /// Where the next write goes.
    end: u32,
    space: Space,
    /// Makes the index file of what was sealed last.
    indexing: Option<thread::JoinHandle<()>>,
    /// To be filled again.
    pub(super) spare: Option<Staged>,
}

impl Committer {
    pub(super) fn new(
        dir: PathBuf,
        shared: Arc<Shared>,
        publish: watch::Sender<u64>,
        tail: &Tail,
    ) -> Self {
        Self {
            dir,
            shared,
            publish: Some(publish),
            segment: Arc::clone(&tail.segment),
            end: tail.end,
            space: Space::beyond(tail.end),
            indexing: None,
            spare: None,
        }
    }

    /// Makes what was staged durable, then shows it, then answers.
    pub(super) fn commit(&mut self, mut staged: Staged) -> io::Result<()> {
        let outcome = self.try_commit(&mut staged);
        match &outcome {
            Ok(()) => {
                staged.clear();
                self.spare = Some(staged);
            }
            // Whoever still waits for an answer hears why there is none.
            Err(error) => self.stop(error),
        }
        outcome
    }

    fn try_commit(&mut self, staged: &mut Staged) -> io::Result<()> {
        if self.publish.is_none() {
            return Err(io::Error::other("an earlier write failed"));
        }
        if !staged.bytes.is_empty() {
            self.write(staged)?;
        }
        for (reply, answer) in staged.answers.drain(..) {
            // The caller may have gone away.
            reply.send(answer).ok();
        }
        staged.then.take().map_or(Ok(()), |header| self.roll(header))
    }

    fn write(&mut self, staged: &mut Staged) -> io::Result<()> {
        // Before anything is durable, so that nobody waits for the disk while it is shown.
        let lengths = staged.lengths_of_subjects(&self.shared.index)?;
        let file = &self.segment.file;
        let end = self.end + staged.bytes.len() as u32;
        self.space.make(file, self.end, &mut staged.bytes)?;
        file.write_all_at(&staged.bytes, self.end.into())?;
        file.sync_data()?;
        self.end = end;
        let (mut index, mut lengths) = (self.shared.index.write(), lengths.into_iter());
        let mut records = 0;
        for append in &staged.appends {
            for (revision, event) in &append.notes {
                let NewEvent { event_type, data, .. } = event;
                let note = Note { stream: &append.stream, event_type, revision: *revision, data };
                let ahead = (revision - append.revision) as usize;
                index.note(note, ahead, lengths.next().unwrap_or(0));
            }
            let range = records..records + append.records;
            records = range.end;
            index.push(Batch {
                stream: &append.stream,
                revision: append.revision,
                offsets: &staged.offsets[range.clone()],
                ids: &staged.ids[range],
                end: append.end,
            });
        }
        drop(index);
        if let Some(publish) = &self.publish {
            publish.send_replace(staged.next_position);
        }
        Ok(())
    }

    /// Seals the segment and begins the next one. The index of the sealed one goes into its file
    /// meanwhile; only when that is not done before the next is full does the writer wait for it, so that
    /// never more than two are in memory.
    fn roll(&mut self, header: SegmentHeader) -> io::Result<()> {
        self.segment.file.set_length(u64::from(self.end))?;
        self.segment.file.sync_all()?;
        self.segment = Arc::new(Segment::create(&self.dir, header)?);
        self.end = SEGMENT_HEADER as u32;
        self.space = Space::beyond(self.end);
        let sealed = self.shared.index.write().begin(Arc::clone(&self.segment), Fresh::default());
        self.wait_for_index();
        if let Some(sealed) = sealed {
            let work = move || sealed.make_file();
            self.indexing = Some(thread::Builder::new().name("log-index".into()).spawn(work)?);
        }
        Ok(())
    }

    fn wait_for_index(&mut self) {
        if let Some(indexing) = self.indexing.take()
            && indexing.join().is_err()
        {
            tracing::error!("making an index file panicked: this is a bug");
        }
    }

    /// Nothing is written any more. What the failed write may have left in the page cache is taken
    /// away, so that the next start does not believe it.
    pub(super) fn stop(&mut self, error: &io::Error) {
        let file = &self.segment.path;
        let cause = format!(
            "write to `{}`: {error}; start the process again once the disk is well: nothing acknowledged is lost",
            file.display()
        );
        let stopped = self.shared.cause.set(cause);
        // The cause first: who waits for more looks for it.
        if self.publish.take().is_none() || stopped.is_err() {
            return;
        }
        tracing::error!("{}", self.shared.stopped());
        if let Err(error) = self.segment.file.set_length(u64::from(self.end)) {
            tracing::error!(%error, file = %file.display(), "cut a failed write");
        }
    }

    /// Gives back the space that was not needed.
    pub(super) fn finish(&mut self) {
        self.wait_for_index();
        if self.shared.cause.get().is_none()
            && let Err(error) = self.segment.file.set_length(u64::from(self.end))
        {
            tracing::warn!(%error, "shorten the log's last file");
        }
    }
}
