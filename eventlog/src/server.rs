//! The log for other processes and other languages: the EventStoreDB protocol over any engine.
//!
//! In reading order: [`access`] (who may do what), `names` (how names, ids and metadata travel),
//! `refusal` (how errors travel), `append`, `read`, `filter`, and here the services around them.
//! What the protocol has beyond that (persistent subscriptions, projections, users, operations) is
//! answered with `Unimplemented`.
//!
//! Invariants:
//! - Nobody without a service's certificate or a known password reads or writes anything.
//! - A service's certificate writes only to the streams that the service owns.
//! - Appends of one batch session take their place in the order in which they come, and are answered in
//!   that order.
//! - A subscriber that does not read stops nobody but itself.

pub mod access;
mod append;
mod filter;
mod names;
mod read;
mod refusal;
mod subscribe;

use std::sync::Arc;

use axum::{
    Router, extract,
    http::StatusCode,
    middleware::{self, Next},
    response::{IntoResponse, Response as HttpResponse},
};
use futures::{StreamExt, stream::BoxStream};
use proto::event_store::client::{
    Empty,
    gossip::{
        ClusterInfo, EndPoint, MemberInfo,
        gossip_server::{Gossip, GossipServer},
        member_info::VNodeState,
    },
    server_features::{
        SupportedMethod, SupportedMethods,
        server_features_server::{ServerFeatures, ServerFeaturesServer},
    },
    streams::{
        AppendReq, AppendResp, BatchAppendReq, BatchAppendResp, DeleteReq, DeleteResp, ReadReq,
        TombstoneReq, TombstoneResp, delete_resp,
        streams_server::{Streams, StreamsServer},
        tombstone_resp,
    },
};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status, Streaming};

use crate::{Clock, Log};
use access::Caller;
pub use access::{Access, Rights, Users, UsersError};
use append::Waiting;

/// Longest message: the largest batch, with its names and metadata, and room to say that a larger one
/// is too large.
const MESSAGE: usize = 8 << 20;

/// What clients learn of us: they choose what they dare to ask by the version. The features that we
/// serve are those of this one.
const VERSION: &str = "24.10.0";

/// What is served. Clients look for it in lower case.
const METHODS: [(&str, &str, &[&str]); 7] = [
    ("event_store.client.streams.streams", "read", &["position", "events"]),
    ("event_store.client.streams.streams", "append", &[]),
    ("event_store.client.streams.streams", "batchappend", &["deadline_duration"]),
    ("event_store.client.streams.streams", "delete", &[]),
    ("event_store.client.streams.streams", "tombstone", &[]),
    ("event_store.client.gossip.gossip", "read", &[]),
    ("event_store.client.server_features.serverfeatures", "getsupportedmethods", &[]),
];

/// Serves the log to whom `access` lets in, until `stop`: then subscriptions end, since they would
/// hold the server for ever.
pub fn router(log: Log, access: Access, stop: CancellationToken) -> Router {
    let served = Served { log, clock: Clock::system(), waiting: Waiting::default(), stop };
    let streams = StreamsServer::new(served)
        .max_decoding_message_size(MESSAGE)
        .max_encoding_message_size(MESSAGE);
    tonic::service::Routes::new(streams)
        .add_service(GossipServer::new(Alone { id: identity::random() }))
        .add_service(ServerFeaturesServer::new(Features))
        .into_axum_router()
        .fallback(not_served)
        .layer(middleware::from_fn(explain))
        .layer(middleware::from_fn_with_state(Arc::new(access), access::admit))
}

/// The log, as every call sees it.
#[derive(Clone)]
struct Served {
    log: Log,
    /// Tells when a subscription caught up.
    clock: Clock,
    waiting: Waiting,
    stop: CancellationToken,
}

#[tonic::async_trait]
impl Streams for Served {
    type ReadStream = read::Answers;
    type BatchAppendStream = BoxStream<'static, Result<BatchAppendResp, Status>>;

    async fn read(&self, request: Request<ReadReq>) -> Result<Response<Self::ReadStream>, Status> {
        let caller = Caller::of(&request)?;
        self.answers(&caller, request.into_inner()).map(Response::new)
    }

    async fn append(
        &self,
        request: Request<Streaming<AppendReq>>,
    ) -> Result<Response<AppendResp>, Status> {
        let caller = Caller::of(&request)?;
        self.append_one(caller, request.into_inner()).await.map(Response::new)
    }

    async fn batch_append(
        &self,
        request: Request<Streaming<BatchAppendReq>>,
    ) -> Result<Response<Self::BatchAppendStream>, Status> {
        let caller = Caller::of(&request)?;
        Ok(Response::new(self.append_many(caller, request.into_inner()).boxed()))
    }

    async fn delete(&self, request: Request<DeleteReq>) -> Result<Response<DeleteResp>, Status> {
        let caller = Caller::of(&request)?;
        let position = self.delete_stream(caller, request.into_inner().options).await?;
        let position =
            delete_resp::Position { commit_position: position, prepare_position: position };
        let position_option = Some(delete_resp::PositionOption::Position(position));
        Ok(Response::new(DeleteResp { position_option }))
    }

    async fn tombstone(
        &self,
        request: Request<TombstoneReq>,
    ) -> Result<Response<TombstoneResp>, Status> {
        let caller = Caller::of(&request)?;
        let position = self.tombstone_stream(caller, request.into_inner().options).await?;
        let position =
            tombstone_resp::Position { commit_position: position, prepare_position: position };
        let position_option = Some(tombstone_resp::PositionOption::Position(position));
        Ok(Response::new(TombstoneResp { position_option }))
    }
}

/// A method that a service does not have is refused without a word of why.
async fn explain(request: extract::Request, next: Next) -> HttpResponse {
    let uri = request.uri().clone();
    let answer = next.run(request).await;
    let is_bare = Status::from_header_map(answer.headers())
        .is_some_and(|status| status.code() == Code::Unimplemented && status.message().is_empty());
    if is_bare { Status::unimplemented(unserved(uri.path())).into_http() } else { answer }
}

fn unserved(path: &str) -> String {
    format!(
        "this log does not serve {path}; it has streams (read, append, subscribe, delete), gossip and \
         server features"
    )
}

async fn not_served(request: extract::Request) -> HttpResponse {
    let why = unserved(request.uri().path());
    if access::is_grpc(request.headers()) {
        Status::unimplemented(why).into_http()
    } else {
        (StatusCode::NOT_FOUND, why).into_response()
    }
}

/// A cluster of one.
struct Alone {
    id: [u8; 16],
}

#[tonic::async_trait]
impl Gossip for Alone {
    /// We are the leader, at the address by which the client has found us.
    async fn read(&self, request: Request<Empty>) -> Result<Response<ClusterInfo>, Status> {
        let access::Reached(authority) = request
            .extensions()
            .get()
            .cloned()
            .ok_or_else(|| Status::invalid_argument("the request names no host"))?;
        let http_end_point = Some(EndPoint {
            address: authority.host().to_owned(),
            port: u32::from(authority.port_u16().unwrap_or(443)),
        });
        let member = MemberInfo {
            instance_id: Some(names::structured(uuid::Uuid::from_bytes(self.id))),
            time_stamp: names::ticks(Clock::system().now()).cast_signed(),
            state: VNodeState::Leader.into(),
            is_alive: true,
            http_end_point,
        };
        Ok(Response::new(ClusterInfo { members: vec![member] }))
    }
}

struct Features;

#[tonic::async_trait]
impl ServerFeatures for Features {
    async fn get_supported_methods(
        &self,
        _: Request<Empty>,
    ) -> Result<Response<SupportedMethods>, Status> {
        let methods = METHODS.iter().map(|(service, method, features)| SupportedMethod {
            method_name: (*method).into(),
            service_name: (*service).into(),
            features: features.iter().map(ToString::to_string).collect(),
        });
        Ok(Response::new(SupportedMethods {
            methods: methods.collect(),
            event_store_server_version: VERSION.into(),
        }))
    }
}
