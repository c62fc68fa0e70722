//! A few things at once, all of which must go well.

use tokio::task::{JoinError, JoinSet};

use crate::error::BlobError;

/// An object store answers late and takes much at once; memory is what this bounds.
const AT_ONCE: usize = 16;

/// Dropped, it lets what was begun come to its end: what is on its way to a disk gets there anyway, and
/// must be counted.
#[derive(Debug, Default)]
pub(crate) struct Crew(JoinSet<Result<(), BlobError>>);

impl Drop for Crew {
    fn drop(&mut self) {
        self.0.detach_all();
    }
}

impl Crew {
    /// Waits while there is enough to do.
    pub(crate) async fn give(
        &mut self,
        work: impl Future<Output = Result<(), BlobError>> + Send + 'static,
    ) -> Result<(), BlobError> {
        while self.0.len() >= AT_ONCE {
            self.0.join_next().await.map_or(Ok(()), flat)?;
        }
        self.0.spawn(work);
        Ok(())
    }

    pub(crate) async fn finish(&mut self) -> Result<(), BlobError> {
        while let Some(done) = self.0.join_next().await {
            flat(done)?;
        }
        Ok(())
    }
}

fn flat(done: Result<Result<(), BlobError>, JoinError>) -> Result<(), BlobError> {
    done.expect("storing neither panics nor is aborted")
}
