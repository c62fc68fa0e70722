//! What the domain rejects, in gRPC's terms.

use tonic::Status;

use crate::domain::{Rejection, certificate, token};

impl From<Rejection> for Status {
    fn from(rejection: Rejection) -> Self {
        let message = rejection.to_string();
        match rejection {
            Rejection::WrongSecret
            | Rejection::Certificate(
                certificate::Refusal::TooLate | certificate::Refusal::Revoked,
            ) => Self::permission_denied(message),
            Rejection::WorkerExists(_) | Rejection::NameTaken(_) => Self::already_exists(message),
            Rejection::Token(refusal) => match refusal {
                token::Refusal::NoSuchToken(_) => Self::not_found(message),
                token::Refusal::AtTheSameTime => Self::aborted(message),
                token::Refusal::TooMany => Self::resource_exhausted(message),
                _ => Self::permission_denied(message),
            },
            Rejection::OwnTag { .. }
            | Rejection::TooManyTags(_)
            | Rejection::TooManyVariables(_)
            | Rejection::EnvironmentTooLarge { .. } => Self::failed_precondition(message),
            Rejection::Contradiction(_)
            | Rejection::EndIsPast(_)
            | Rejection::EndIsFar { .. }
            | Rejection::Certificate(certificate::Refusal::ShortOverlap { .. }) => {
                Self::invalid_argument(message)
            }
            Rejection::UnknownWorker(_) | Rejection::Certificate(_) => Self::not_found(message),
        }
    }
}
