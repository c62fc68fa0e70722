//! What callers find: the service while this process leads, a refusal while another one does.

use std::{convert::Infallible, time::Duration};

use axum::{Router, body::Body, extract::Request, response::Response};
use futures::{StreamExt, stream};
use proto::scheduler::v1::{
    self as pb, WatchLeadershipRequest,
    leadership_server::{Leadership, LeadershipServer},
};
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval, timeout},
};
use tonic::Status;
use tower::ServiceExt as _;

use crate::rival::BEATS;

/// How long a call waits at most for somebody to lead: longer than a take-over should take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Whether this process leads.
#[derive(Clone, Debug)]
pub(crate) enum Standing {
    /// It is not known who leads.
    Open,
    /// Another one, at this address.
    Follows(String),
    /// It does not act yet.
    Elected,
    /// With what is open to callers.
    Leads(Router),
}

/// The scheduler's gRPC, whoever leads, and the word to other schedulers on that.
pub(crate) fn router(standing: watch::Receiver<Standing>, lease: Duration) -> Router {
    let watched = Watched { standing: standing.clone(), lease };
    let leadership = LeadershipServer::new(watched);
    Router::new()
        .route_service("/gaia.scheduler.v1.Leadership/{*method}", leadership)
        .fallback(move |request| enter(standing, request))
}

async fn enter(mut standing: watch::Receiver<Standing>, request: Request) -> Response<Body> {
    let is_known =
        |standing: &Standing| matches!(standing, Standing::Follows(_) | Standing::Leads(_));
    let known = timeout(PATIENCE, standing.wait_for(is_known)).await;
    let known = known.ok().and_then(Result::ok).map(|known| Standing::clone(&known));
    let refusal = match known {
        Some(Standing::Leads(service)) => {
            let answer: Result<_, Infallible> = service.oneshot(request).await;
            return answer.unwrap_or_else(|never| match never {});
        }
        Some(Standing::Follows(leader)) => {
            format!("this scheduler stands by; the one at {leader} leads")
        }
        _ => "no scheduler leads at this moment: try again".to_owned(),
    };
    Status::unavailable(refusal).into_http()
}

struct Watched {
    standing: watch::Receiver<Standing>,
    lease: Duration,
}

#[tonic::async_trait]
impl Leadership for Watched {
    type WatchStream = stream::BoxStream<'static, Result<pb::Standing, Status>>;

    async fn watch(
        &self,
        _: tonic::Request<WatchLeadershipRequest>,
    ) -> Result<tonic::Response<Self::WatchStream>, Status> {
        let standing = self.standing.clone();
        let mut beats = interval(self.lease / BEATS);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let beats = stream::unfold((standing, beats), |(standing, mut beats)| async move {
            beats.tick().await;
            let leads = matches!(*standing.borrow(), Standing::Elected | Standing::Leads(_));
            // Without a sender the service has stopped.
            standing.has_changed().ok()?;
            Some((Ok(pb::Standing { leads }), (standing, beats)))
        });
        Ok(tonic::Response::new(beats.boxed()))
    }
}
