//! Passing an upload on to a service without ever making an aborted one look whole.

use std::future::pending;

use futures::{Stream, StreamExt, stream};
use tokio::sync::oneshot;
use tonic::Status;

/// An upload on its way to a service.
pub(crate) struct Upload<S> {
    /// For the client call. Ends only if the source ended well; after a fault it stays silent for ever,
    /// so that the service never takes what came before the fault for everything.
    pub(crate) parts: S,
    /// What went wrong with the source.
    pub(crate) fault: oneshot::Receiver<Status>,
}

/// Splits a source that can fail into the parts and the fault.
pub(crate) fn upload<T, S>(source: S) -> Upload<impl Stream<Item = T> + Send + 'static>
where
    T: Send + 'static,
    S: Stream<Item = Result<T, Status>> + Send + Unpin + 'static,
{
    let (tell, fault) = oneshot::channel();
    let parts = stream::unfold((source, Some(tell)), |(mut source, mut tell)| async move {
        match source.next().await? {
            Ok(part) => Some((part, (source, tell))),
            Err(status) => {
                // Nobody listens any more only when the call was dropped, and then this is dropped too.
                drop(tell.take().map(|tell| tell.send(status)));
                pending().await
            }
        }
    });
    Upload { parts, fault }
}

/// The call's answer, unless the source fails first; then the call is dropped, and with it aborted.
pub(crate) async fn outcome<A>(
    call: impl Future<Output = Result<A, Status>>,
    fault: oneshot::Receiver<Status>,
) -> Result<A, Status> {
    tokio::select! {
        answer = call => answer,
        Ok(status) = fault => Err(status),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_source_that_fails_never_ends_the_parts() {
        let source = stream::iter([Ok(1), Err(Status::aborted("gone")), Ok(2)]);
        let upload = upload(source);
        let call = async {
            let parts: Vec<i32> = upload.parts.collect().await;
            Ok(parts)
        };
        let status = outcome(call, upload.fault).await.unwrap_err();
        assert_eq!(status.message(), "gone");
    }

    #[tokio::test]
    async fn a_source_that_ends_well_is_passed_on_whole() {
        let upload = upload(stream::iter([Ok(1), Ok(2)]));
        let call = async { Ok(upload.parts.collect::<Vec<i32>>().await) };
        assert_eq!(outcome(call, upload.fault).await.unwrap(), [1, 2]);
    }
}
