//! Join tokens: made, listed, revoked, redeemed.

use std::{fmt, net::SocketAddr};

use identity::JoinToken;
use ids::{JoinTokenId, ParseIdError, Timestamp, WorkerId};
use proto::registry::v1 as wire;
use tonic::Status;
use uuid::Uuid;

use super::{Api, admitted_by, made_up_name, stopped};
use crate::{
    State,
    domain::{
        Command, Registration, Rejection,
        token::{Claim, Command as TokenCommand, Refusal, Shown, Terms, Token},
    },
    limits::{self, InvalidField},
};

impl Api {
    pub(super) async fn create_token(
        &self,
        request: wire::CreateJoinTokenRequest,
    ) -> Result<wire::CreateJoinTokenResponse, Status> {
        let uses = limits::uses(request.uses)?;
        let name = limits::name(&request.name)?;
        if uses > 1 && !name.is_empty() {
            let why = "is for one worker, and the token for more; leave out one of them";
            return Err(InvalidField::new("name", why.into()).into());
        }
        let at = self.clock.now();
        #[expect(clippy::disallowed_methods, reason = "tokens get their ids here")]
        let id = JoinTokenId::from_uuid(Uuid::now_v7());
        let token = JoinToken::new(id, self.authority.fingerprint());
        let terms = Terms {
            secret_hash: token.secret_hash(),
            name,
            tags: limits::tags(&request.tags)?,
            uses,
            networks: limits::networks(&request.networks)?,
            expires_at: at + limits::lifetime(request.valid_ms)?,
            primary: request.primary,
        };
        let command = TokenCommand::CreateToken { token: id, terms, at };
        self.ask(Command::Token(command), request.caller).await?;
        let terms = self.token(id).await?;
        Ok(wire::CreateJoinTokenResponse { token: token.to_text(), terms: Some(terms) })
    }

    pub(super) async fn tokens(&self) -> Result<wire::ListJoinTokensResponse, Status> {
        let now = self.clock.now();
        let list = move |state: &State| {
            let tokens = state.tokens.iter().map(|(id, token)| shown(id, token, now));
            tokens.collect::<Vec<_>>()
        };
        let mut tokens = self.owner.read(list).await.map_err(stopped)?;
        tokens.sort_by_key(|token| std::cmp::Reverse(token.created_at));
        Ok(wire::ListJoinTokensResponse { tokens })
    }

    pub(super) async fn revoke_token(
        &self,
        request: wire::RevokeJoinTokenRequest,
    ) -> Result<wire::JoinToken, Status> {
        let token: JoinTokenId = request.token_id.parse().map_err(|error: ParseIdError| {
            InvalidField::new("token_id", format!("is wrong: {error}"))
        })?;
        let note = limits::text("note", &request.note, limits::NOTE)?;
        let command = TokenCommand::RevokeToken { token, note, at: self.clock.now() };
        self.ask(Command::Token(command), request.caller).await?;
        self.token(token).await
    }

    async fn token(&self, id: JoinTokenId) -> Result<wire::JoinToken, Status> {
        let now = self.clock.now();
        let look = move |state: &State| state.tokens.get(id).map(|known| shown(id, known, now));
        let found = self.owner.read(look).await.map_err(stopped)?;
        found.ok_or_else(|| refused(Refusal::NoSuchToken(id)))
    }

    /// The token is looked at before anything is signed, and again when its use is stored.
    pub(super) async fn join(
        &self,
        request: wire::JoinWorkerRequest,
    ) -> Result<wire::Certified, Status> {
        let token: JoinToken = request.token.parse().map_err(|error| wrong("token", error))?;
        let key = identity::Request::parse(&request.request);
        let key = key.map_err(|error| wrong("request", error))?;
        let name = limits::name(&request.name)?;
        let tags = limits::tags(&request.tags)?;
        let address = request.caller.as_ref().and_then(|caller| caller.address.parse().ok());
        let shown = Shown {
            token: token.id,
            secret_hash: token.secret_hash(),
            key: key.key_digest(),
            address: address.map(|address: SocketAddr| address.ip().to_canonical()),
        };
        let at = self.clock.now();
        let registration = self.registration(shown.clone(), name, tags, at).await?;
        let worker = registration.worker;
        let signed = self
            .authority
            .sign_worker(&key, worker, self.config.certificate_valid())
            .map_err(|error| Status::internal(format!("failed to {error}")))?;
        let registration = Registration {
            certificate_serial: signed.serial.clone(),
            certificate_expires_at: signed.expires_at,
            ..registration
        };
        let caller = admitted_by(request.caller, format!("token:{}", token.id));
        let command = TokenCommand::RedeemToken { shown, registration, at };
        self.ask(Command::Token(command), Some(caller)).await?;
        self.presence.expect(worker).map_err(stopped)?;
        Ok(certified(Some(worker), signed))
    }

    /// Whom the token would let in, still without a certificate.
    async fn registration(
        &self,
        shown: Shown,
        name: String,
        tags: Vec<String>,
        at: Timestamp,
    ) -> Result<Registration, Status> {
        let look = move |state: &State| {
            let claim = state.tokens.claim(&shown, at)?;
            Ok::<_, Refusal>(match claim {
                Claim::New(terms) => (None, terms),
                // Who was removed is not let in again.
                Claim::Again(worker, _) if is_removed(state, worker) => {
                    return Err(Refusal::UsedUp);
                }
                Claim::Again(worker, terms) => (Some(worker), terms),
            })
        };
        let looked = self.owner.read(look).await.map_err(stopped)?;
        let (known, terms) = looked.map_err(refused)?;
        #[expect(clippy::disallowed_methods, reason = "workers get their ids here")]
        let worker = known.unwrap_or_else(|| WorkerId::from_uuid(Uuid::now_v7()));
        let name = match (terms.name, name) {
            (given, own) if given.is_empty() && own.is_empty() => made_up_name(worker),
            (given, own) if given.is_empty() => own,
            (given, _) => given,
        };
        Ok(Registration {
            worker,
            name,
            tags,
            primary: terms.primary,
            certificate_serial: String::new(),
            certificate_expires_at: Timestamp::default(),
        })
    }
}

fn is_removed(state: &State, worker: WorkerId) -> bool {
    state.worker(worker).is_some_and(|known| known.deregistered.is_some())
}

fn refused(refusal: Refusal) -> Status {
    Rejection::Token(refusal).into()
}

pub(super) fn wrong(field: &'static str, error: impl fmt::Display) -> InvalidField {
    InvalidField::new(
        field,
        format!("is wrong: failed to {error}").replace("failed to this", "this"),
    )
}

pub(super) fn certified(worker: Option<WorkerId>, signed: identity::Signed) -> wire::Certified {
    wire::Certified {
        worker_id: worker.map(|worker| worker.to_string()).unwrap_or_default(),
        certificate: signed.certificate,
        ca_certificates: signed.ca,
        expires_at: signed.expires_at.0,
    }
}

fn shown(id: JoinTokenId, token: &Token, now: Timestamp) -> wire::JoinToken {
    let Token { terms, created_at, redeemed, revoked } = token;
    wire::JoinToken {
        token_id: id.to_string(),
        name: terms.name.clone(),
        tags: terms.tags.clone(),
        uses: terms.uses,
        networks: terms.networks.iter().map(ToString::to_string).collect(),
        created_at: created_at.0,
        expires_at: terms.expires_at.0,
        worker_ids: redeemed.iter().map(|(worker, _)| worker.to_string()).collect(),
        revoked: revoked.is_some(),
        note: revoked.clone().unwrap_or_default(),
        open: token.is_open(now),
    }
}
