//! Join tokens: who holds one may become a worker, on its terms.
//!
//! ```text
//!              create           redeem (uses times)
//!   (unknown) ───────▶ open ───────────────────────▶ used up
//!                        │ revoke                       │ revoke
//!                        ▼                              ▼
//!                     revoked                        revoked         after its time: expired
//! ```
//!
//! Invariants:
//! - A token is redeemed at most as often as its terms say, each time by another key.
//! - The key that redeemed it may ask again, in case it did not hear the answer, and gets no other worker;
//!   and none at all once a certificate of that worker was revoked.
//! - Whoever does not know the secret learns nothing of the token.

use std::{collections::BTreeMap, fmt, net::IpAddr, str::FromStr, time::Duration};

use ids::{Digest, JoinTokenId, Timestamp, WorkerId};

use super::{Event as Any, Registration, Rejection, State, labels, registered, when};

/// How long a token is still listed after its time.
const REMEMBERED: Duration = Duration::from_hours(30 * 24);
/// Tokens at once.
const MOST: usize = 10_000;

#[derive(Clone, Debug)]
pub enum Command {
    CreateToken { token: JoinTokenId, terms: Terms, at: Timestamp },
    RedeemToken { shown: Shown, registration: Registration, at: Timestamp },
    RevokeToken { token: JoinTokenId, note: String, at: Timestamp },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    TokenCreated { token: JoinTokenId, terms: Terms, at: Timestamp },
    TokenRedeemed { token: JoinTokenId, worker: WorkerId, key: Digest, at: Timestamp },
    TokenRevoked { token: JoinTokenId, note: String, at: Timestamp },
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("the join token is not known here; make one with `gaia worker token create`")]
    UnknownToken,
    #[error("the join token has expired; make another with `gaia worker token create`")]
    Expired,
    #[error("the join token was revoked; ask the administrator for another")]
    Revoked,
    #[error("the join token is used up; make another with `gaia worker token create`")]
    UsedUp,
    #[error(
        "the join token is good for {from} only, and this request comes from {address}",
        address = .address.map_or("an unknown address".to_owned(), |address| address.to_string())
    )]
    WrongNetwork { from: String, address: Option<IpAddr> },
    #[error("the same key joins twice at the same moment; try again")]
    AtTheSameTime,
    #[error("there is no join token {0}; `gaia worker token ls` lists them")]
    NoSuchToken(JoinTokenId),
    #[error("{MOST} join tokens are open, and more are not allowed; revoke some first")]
    TooMany,
}

/// On what conditions a token lets in whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    pub secret_hash: Digest,
    /// The worker's name; empty: the worker says it.
    pub name: String,
    /// Tags that the worker gets beside its own, as from an operator.
    pub tags: Vec<String>,
    pub uses: u32,
    /// Where the worker must come from; empty: from anywhere.
    pub networks: Vec<Network>,
    pub expires_at: Timestamp,
    /// For the embedded agent of a server.
    pub primary: bool,
}

/// What somebody shows to join.
#[derive(Clone, Debug)]
pub struct Shown {
    pub token: JoinTokenId,
    pub secret_hash: Digest,
    /// Of the key that asks for a certificate.
    pub key: Digest,
    pub address: Option<IpAddr>,
}

/// What a token is good for to whoever shows it now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claim {
    New(Terms),
    /// This key has redeemed it before, as this worker.
    Again(WorkerId, Terms),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    pub terms: Terms,
    pub created_at: Timestamp,
    pub redeemed: Vec<(WorkerId, Digest)>,
    /// Why, if it was.
    pub revoked: Option<String>,
}

impl Token {
    fn is_used_up(&self) -> bool {
        self.redeemed.len() >= self.terms.uses as usize
    }

    /// Whether it lets another key in.
    #[must_use]
    pub fn is_open(&self, at: Timestamp) -> bool {
        self.revoked.is_none() && !self.is_used_up() && self.terms.expires_at > at
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tokens(BTreeMap<JoinTokenId, Token>);

impl Tokens {
    pub fn iter(&self) -> impl Iterator<Item = (JoinTokenId, &Token)> {
        self.0.iter().map(|(&id, token)| (id, token))
    }

    #[must_use]
    pub fn get(&self, token: JoinTokenId) -> Option<&Token> {
        self.0.get(&token)
    }

    /// What the shown token is good for.
    pub fn claim(&self, shown: &Shown, at: Timestamp) -> Result<Claim, Refusal> {
        // Hashes of random secrets may be compared in any time: nobody can choose how they begin.
        let known = self.0.get(&shown.token);
        let known = known.filter(|known| known.terms.secret_hash == shown.secret_hash);
        let known = known.ok_or(Refusal::UnknownToken)?;
        if known.revoked.is_some() {
            return Err(Refusal::Revoked);
        }
        if known.terms.expires_at <= at {
            return Err(Refusal::Expired);
        }
        let networks = &known.terms.networks;
        let is_in = |network: &Network| shown.address.is_some_and(|from| network.holds(from));
        if !networks.is_empty() && !networks.iter().any(is_in) {
            let names: Vec<_> = networks.iter().map(ToString::to_string).collect();
            return Err(Refusal::WrongNetwork { from: names.join(", "), address: shown.address });
        }
        match known.redeemed.iter().find(|(_, key)| *key == shown.key) {
            Some(&(worker, _)) => Ok(Claim::Again(worker, known.terms.clone())),
            None if known.is_used_up() => Err(Refusal::UsedUp),
            None => Ok(Claim::New(known.terms.clone())),
        }
    }

    pub(super) fn evolve(&mut self, event: &Event) {
        match event {
            Event::TokenCreated { token, terms, at } => {
                self.0.retain(|_, known| known.terms.expires_at + REMEMBERED > *at);
                let (redeemed, revoked) = (vec![], None);
                let new = Token { terms: terms.clone(), created_at: *at, redeemed, revoked };
                self.0.insert(*token, new);
            }
            Event::TokenRedeemed { token, worker, key, .. } => {
                if let Some(known) = self.0.get_mut(token) {
                    known.redeemed.push((*worker, *key));
                }
            }
            Event::TokenRevoked { token, note, .. } => {
                if let Some(known) = self.0.get_mut(token) {
                    known.revoked = Some(note.clone());
                }
            }
        }
    }
}

pub(super) fn decide(state: &State, command: Command) -> Result<Vec<Any>, Rejection> {
    match command {
        Command::CreateToken { token, terms, at } => {
            let open = state.tokens.iter().filter(|(_, known)| known.is_open(at));
            if open.count() >= MOST {
                return Err(Refusal::TooMany.into());
            }
            labels::agree(&terms.tags)?;
            Ok(vec![Event::TokenCreated { token, terms, at }.into()])
        }
        Command::RedeemToken { shown, registration, at } => redeem(state, &shown, registration, at),
        Command::RevokeToken { token, note, at } => {
            let known = state.tokens.get(token).ok_or(Refusal::NoSuchToken(token))?;
            let event = Event::TokenRevoked { token, note, at };
            Ok(if known.revoked.is_none() { vec![event.into()] } else { vec![] })
        }
    }
}

fn redeem(
    state: &State,
    shown: &Shown,
    registration: Registration,
    at: Timestamp,
) -> Result<Vec<Any>, Rejection> {
    let worker = registration.worker;
    match state.tokens.claim(shown, at)? {
        Claim::New(_) if state.worker(worker).is_some() => Err(Rejection::WorkerExists(worker)),
        Claim::New(terms) => {
            let (token, key) = (shown.token, shown.key);
            let mut events = vec![Event::TokenRedeemed { token, worker, key, at }.into()];
            events.extend(enter(state, token, terms, registration, at));
            Ok(events)
        }
        Claim::Again(known, _) if known != worker => Err(Refusal::AtTheSameTime.into()),
        // A crash came between the streams of the token and of the worker.
        Claim::Again(_, terms) if state.worker(worker).is_none() => {
            Ok(enter(state, shown.token, terms, registration, at))
        }
        Claim::Again(..) => {
            registered(state, worker)?;
            state.certificates.unblemished(worker)?;
            Ok(vec![super::certificate::issued_to(&registration, at)])
        }
    }
}

/// What makes a worker of whoever redeemed the token; in one stream, so it happens as a whole.
fn enter(
    state: &State,
    token: JoinTokenId,
    terms: Terms,
    registration: Registration,
    at: Timestamp,
) -> Vec<Any> {
    let (worker, added) = (registration.worker, terms.tags);
    let (removed, note) = (vec![], format!("from join token {token}"));
    let is_tagged = !added.is_empty();
    let tagged = Any::WorkerTagsChanged { worker, added, removed, note, at };
    let registration = super::called_apart(state, registration);
    let mut events = vec![Any::WorkerRegistered { registration, at }];
    events.extend(when(is_tagged, tagged));
    events
}

impl From<Event> for Any {
    fn from(event: Event) -> Self {
        Self::Token(event)
    }
}

/// Addresses with the same beginning, as `10.0.0.0/8` or `fd00::/8`; a bare address is itself alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    bits: u8,
}

/// A text that names no network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("names no network: write it like `10.0.0.0/8`, `fd00::/8` or `192.0.2.7`")]
pub struct ParseNetworkError;

impl Network {
    #[must_use]
    pub fn holds(&self, address: IpAddr) -> bool {
        // An IPv4 client of an IPv6 socket is an IPv4 client.
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                let differing = u32::from(own) ^ u32::from(other);
                differing.leading_zeros() >= u32::from(self.bits)
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                let differing = u128::from(own) ^ u128::from(other);
                differing.leading_zeros() >= u32::from(self.bits)
            }
            _ => false,
        }
    }
}

impl FromStr for Network {
    type Err = ParseNetworkError;

    fn from_str(text: &str) -> Result<Self, ParseNetworkError> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| ParseNetworkError)?;
        let all = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.map_or(Ok(all), str::parse).map_err(|_| ParseNetworkError)?;
        if bits > all {
            return Err(ParseNetworkError);
        }
        Ok(Self { address, bits })
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}
