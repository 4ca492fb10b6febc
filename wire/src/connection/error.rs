//! Why a connection could not be made, and what to do.

use std::time::Duration;

use kafka_protocol::error::ResponseError;
use kferry_config::HostPort;

use super::RequestError;
use crate::frame::FrameError;
use crate::security::sasl::SaslError;
use crate::security::tls::SecurityError;
use crate::versions::Release;

/// Why a broker may close a connection before it has said anything, whatever the settings of both.
pub const TOO_MANY: &str =
    "or the broker has as many connections as it takes of one address, or at all (max.connections.per.ip, max.connections)";

/// A connection that could not be made.
#[derive(Debug, thiserror::Error)]
#[error("{broker}: {refusal}")]
pub struct ConnectError {
    /// Which broker.
    pub broker: HostPort,
    /// Why.
    pub refusal: Refusal,
}

/// Why a connection could not be made, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The host name has no address.
    #[error("cannot resolve the host name: {0}; check bootstrap_servers and DNS")]
    Resolve(#[source] std::io::Error),
    /// No TCP connection.
    #[error("cannot connect: {0}; check that the broker runs and that host and port are right")]
    Tcp(#[source] std::io::Error),
    /// The deadline passed.
    #[error("{step} took longer than {after:?}; {}", step.if_it_hangs())]
    Deadline {
        /// What was under way.
        step: Step,
        /// The time for all of it.
        after: Duration,
    },
    /// Our own files.
    #[error(transparent)]
    Security(#[from] SecurityError),
    /// TLS failed; the text says what to do.
    #[error("TLS failed: {0}")]
    Tls(String),
    /// TLS to a plaintext port.
    #[error(
        "closed the connection during the TLS handshake, as plaintext ports do; this connection used {protocol}: \
         compare security_protocol with the broker's listener; {}",
        TOO_MANY
    )]
    ClosedInTls {
        /// `security_protocol`
        protocol: &'static str,
    },
    /// Plaintext to a TLS port.
    #[error("answers with TLS, and this connection used {protocol}; set security_protocol to SSL or SASL_SSL")]
    SpeaksTls {
        /// `security_protocol`
        protocol: &'static str,
    },
    /// The broker hung up.
    #[error(
        "closed the connection at {step}, which usually means that TLS or SASL settings differ: this connection used {protocol}; \
         compare security_protocol with the broker's listener; {}",
        TOO_MANY
    )]
    Closed {
        /// What was under way.
        step: Step,
        /// `security_protocol`
        protocol: &'static str,
    },
    /// The socket failed, or a frame is impossible.
    #[error("{step} failed: {source}")]
    Frame {
        /// What was under way.
        step: Step,
        /// Why.
        source: FrameError,
    },
    /// Bytes came, but no Kafka answer.
    #[error("the answer at {step} is not Kafka's; something else listens on this port")]
    NotKafka {
        /// What was under way.
        step: Step,
    },
    /// The broker answered with an error.
    #[error("{step} failed with {error}")]
    Answered {
        /// What was under way.
        step: Step,
        /// Kafka's name for the error.
        error: String,
    },
    /// No common version of a login request, or one that cannot be written or read.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// `SASL_*` without credentials: the clients' own pass through the proxy, but kferry itself cannot log in.
    #[error("the brokers want a login and kferry has none; set sasl_mechanism, sasl_username and sasl_password")]
    NoCredentials {
        /// What could be learned without one.
        release: Release,
    },
    /// SASL on a listener without it.
    #[error("its listener does not use SASL; set security_protocol to {without} instead of {protocol}")]
    NoSasl {
        /// The protocol less SASL.
        without: &'static str,
        /// `security_protocol`
        protocol: &'static str,
    },
    /// The broker has not enabled the mechanism.
    #[error("the broker has not enabled the SASL mechanism {wanted}; set sasl_mechanism to one of those that it has: {enabled}")]
    Mechanism {
        /// `sasl_mechanism`
        wanted: &'static str,
        /// The broker's, separated by commas.
        enabled: String,
    },
    /// Wrong username, password or token.
    #[error("the broker refused the {who} with {mechanism}: {message}; check {check}")]
    Login {
        /// The user, or where the token is.
        who: String,
        /// `sasl_mechanism`
        mechanism: &'static str,
        /// The broker's own words.
        message: String,
        /// The keys of the file.
        check: &'static str,
    },
    /// The login cannot go on.
    #[error("the login of the {who} failed: {source}")]
    Sasl {
        /// The user, or where the token is.
        who: String,
        /// Why.
        source: SaslError,
    },
}

/// What was under way when it failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// DNS
    Resolve,
    /// TCP
    Tcp,
    /// TLS
    Tls,
    /// ApiVersions
    ApiVersions,
    /// SaslHandshake and SaslAuthenticate
    Sasl,
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Resolve => "resolving the host name",
            Self::Tcp => "the TCP connection",
            Self::Tls => "the TLS handshake",
            Self::ApiVersions => "the first request (ApiVersions)",
            Self::Sasl => "the SASL login",
        })
    }
}

impl Step {
    pub(super) fn if_it_hangs(self) -> &'static str {
        match self {
            Self::Resolve => "no name server answers: check this machine's DNS",
            Self::Tcp | Self::Tls | Self::ApiVersions | Self::Sasl => {
                "the broker hangs, a firewall drops packets, or this is no Kafka port"
            }
        }
    }
}

pub(super) fn error_name(code: i16) -> String {
    match ResponseError::try_from_code(code) {
        Some(error) => format!("{error:?} ({code})"),
        None => format!("error {code}"),
    }
}
