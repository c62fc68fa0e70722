//! The stored form of join tokens and certificates. Each token has the stream `jointoken-<id>`, each
//! certificate `certificate-<serial>`, the CA `authority`.

use eventlog::owner::Encoded;
use ids::{Digest, JoinTokenId, ParseIdError, Timestamp};
use proto::registry::events::v1::{self as stored, certificate_issued};

use super::{encoded, message, worker};
use crate::domain::{
    Event as Any,
    certificate::{Event as Certificate, Issue, Subject},
    token::{Event as Token, Terms},
};

pub(super) fn token_stream(event: &Token) -> String {
    match event {
        Token::TokenCreated { token, .. }
        | Token::TokenRedeemed { token, .. }
        | Token::TokenRevoked { token, .. } => format!("jointoken-{token}"),
    }
}

pub(super) fn certificate_stream(event: &Certificate) -> String {
    match event {
        Certificate::CertificateIssued { certificate: Issue { serial, .. }, .. }
        | Certificate::CertificateRevoked { serial, .. } => format!("certificate-{serial}"),
        Certificate::CaRolledOver { .. } => "authority".into(),
    }
}

pub(super) fn encode_token(event: &Token) -> Encoded {
    match event {
        Token::TokenCreated { token, terms, at } => encoded(
            "TokenCreated",
            1,
            &stored::TokenCreated {
                token_id: token.to_string(),
                secret_hash: bytes(terms.secret_hash),
                name: terms.name.clone(),
                tags: terms.tags.clone(),
                uses: terms.uses,
                networks: terms.networks.iter().map(ToString::to_string).collect(),
                expires_at: terms.expires_at.0,
                primary: terms.primary,
                at: at.0,
            },
        ),
        Token::TokenRedeemed { token, worker, key, at } => encoded(
            "TokenRedeemed",
            1,
            &stored::TokenRedeemed {
                token_id: token.to_string(),
                worker_id: worker.to_string(),
                key: bytes(*key),
                at: at.0,
            },
        ),
        Token::TokenRevoked { token, note, at } => encoded(
            "TokenRevoked",
            1,
            &stored::TokenRevoked { token_id: token.to_string(), note: note.clone(), at: at.0 },
        ),
    }
}

pub(super) fn encode_certificate(event: &Certificate) -> Encoded {
    match event {
        Certificate::CertificateIssued { certificate, at } => encoded(
            "CertificateIssued",
            1,
            &stored::CertificateIssued {
                serial: certificate.serial.clone(),
                subject: Some(subject(&certificate.subject)),
                expires_at: certificate.expires_at.0,
                at: at.0,
            },
        ),
        Certificate::CertificateRevoked { serial, note, at } => encoded(
            "CertificateRevoked",
            1,
            &stored::CertificateRevoked { serial: serial.clone(), note: note.clone(), at: at.0 },
        ),
        Certificate::CaRolledOver { fingerprint, overlap_until, note, at } => encoded(
            "CaRolledOver",
            1,
            &stored::CaRolledOver {
                fingerprint: bytes(*fingerprint),
                overlap_until: overlap_until.0,
                note: note.clone(),
                at: at.0,
            },
        ),
    }
}

pub(super) fn decode(event_type: &str, data: &[u8]) -> Result<Option<Any>, String> {
    Ok(Some(match event_type {
        "TokenCreated" => {
            let event: stored::TokenCreated = message(data)?;
            let (token, at) = (token(&event.token_id)?, Timestamp(event.at));
            Token::TokenCreated { token, terms: terms(event)?, at }.into()
        }
        "TokenRedeemed" => {
            let event: stored::TokenRedeemed = message(data)?;
            let (token, worker) = (token(&event.token_id)?, worker(&event.worker_id)?);
            Token::TokenRedeemed {
                token,
                worker,
                key: digest(&event.key)?,
                at: Timestamp(event.at),
            }
            .into()
        }
        "TokenRevoked" => {
            let stored::TokenRevoked { token_id, note, at } = message(data)?;
            Token::TokenRevoked { token: token(&token_id)?, note, at: Timestamp(at) }.into()
        }
        "CertificateIssued" => {
            let stored::CertificateIssued { serial, subject, expires_at, at } = message(data)?;
            let (subject, expires_at) = (named(subject)?, Timestamp(expires_at));
            let certificate = Issue { serial, subject, expires_at };
            Certificate::CertificateIssued { certificate, at: Timestamp(at) }.into()
        }
        "CertificateRevoked" => {
            let stored::CertificateRevoked { serial, note, at } = message(data)?;
            Certificate::CertificateRevoked { serial, note, at: Timestamp(at) }.into()
        }
        "CaRolledOver" => {
            let event: stored::CaRolledOver = message(data)?;
            let fingerprint = digest(&event.fingerprint)?;
            let (overlap_until, at) = (Timestamp(event.overlap_until), Timestamp(event.at));
            Certificate::CaRolledOver { fingerprint, overlap_until, note: event.note, at }.into()
        }
        _ => return Ok(None),
    }))
}

fn terms(event: stored::TokenCreated) -> Result<Terms, String> {
    let network = |text: &String| text.parse().map_err(|error| format!("`{text}` {error}"));
    Ok(Terms {
        secret_hash: digest(&event.secret_hash)?,
        networks: event.networks.iter().map(network).collect::<Result<_, String>>()?,
        name: event.name,
        tags: event.tags,
        uses: event.uses,
        expires_at: Timestamp(event.expires_at),
        primary: event.primary,
    })
}

fn subject(subject: &Subject) -> certificate_issued::Subject {
    match subject {
        Subject::Worker(worker) => certificate_issued::Subject::WorkerId(worker.to_string()),
        Subject::Service(name) => certificate_issued::Subject::Service(name.clone()),
    }
}

fn named(subject: Option<certificate_issued::Subject>) -> Result<Subject, String> {
    match subject {
        Some(certificate_issued::Subject::WorkerId(id)) => Ok(Subject::Worker(worker(&id)?)),
        Some(certificate_issued::Subject::Service(name)) => Ok(Subject::Service(name)),
        None => Err("it names nobody".into()),
    }
}

fn bytes(digest: Digest) -> bytes::Bytes {
    digest.as_bytes().to_vec().into()
}

fn digest(bytes: &[u8]) -> Result<Digest, String> {
    bytes.try_into().map_err(|error: ParseIdError| error.to_string())
}

fn token(text: &str) -> Result<JoinTokenId, String> {
    text.parse().map_err(|error: ParseIdError| error.to_string())
}
