//! What the proxy answers itself instead of the broker: frames, error codes, and what a client is told that it may use.

use kafka_protocol::messages::ApiKey;
use kferry_config::{Cluster, Route};
use kferry_wire::api::{APIS, Api, put_uvarint};
use kferry_wire::versions::Versions;

/// Kafka's `UNSUPPORTED_SASL_MECHANISM`
pub(crate) const UNSUPPORTED_SASL_MECHANISM: i16 = 33;
/// Kafka's `ILLEGAL_SASL_STATE`
pub(crate) const ILLEGAL_SASL_STATE: i16 = 34;
/// Kafka's `UNSUPPORTED_VERSION`
pub(crate) const UNSUPPORTED_VERSION: i16 = 35;

/// A whole frame: size, header v0, body. (ApiVersions never has another header, and SaslHandshake v1 has this one.)
pub(crate) fn own_response(correlation_id: i32, body: &[u8]) -> Vec<u8> {
    let size = (4 + body.len()) as i32;
    [&size.to_be_bytes()[..], &correlation_id.to_be_bytes(), body].concat()
}

/// Where a client's SASL goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ClientSasl {
    /// To the broker.
    Broker,
    /// Nowhere: the proxy has logged in for the client.
    Hidden,
    /// To the proxy, which lets nothing else through before.
    Proxy,
}

impl ClientSasl {
    /// That of a route's clients on a cluster.
    pub(crate) fn of(route: &Route, cluster: &Cluster) -> Self {
        if !route.sasl_users.is_empty() {
            Self::Proxy
        } else if route.credentials.contains_key(&cluster.name) {
            Self::Hidden
        } else {
            Self::Broker
        }
    }
}

/// What a relayed client is told that it may use.
#[derive(Debug)]
pub(crate) struct Advertised {
    /// What the client's broker knows, and the brokers of every cluster that the client may come to.
    pub versions: Vec<Versions>,
    /// Whether logins are advertised.
    pub sasl: ClientSasl,
}

/// The versions of an API that a client may use, both included.
struct AdvertisedApi {
    api_key: i16,
    min: i16,
    max: i16,
}

impl Advertised {
    /// The body of the response to ApiVersions, in `version` of it. No features: they would turn transactions v2 on.
    pub(crate) fn api_versions_body(&self, version: i16, error_code: i16) -> Vec<u8> {
        let flexible = version >= 3;
        let ranges: Vec<AdvertisedApi> = APIS.iter().filter_map(|api| self.api(api)).collect();
        let mut body = error_code.to_be_bytes().to_vec();
        if flexible {
            put_uvarint(&mut body, ranges.len() as u32 + 1);
        } else {
            body.extend_from_slice(&(ranges.len() as i32).to_be_bytes());
        }
        for AdvertisedApi { api_key, min, max } in ranges {
            for number in [api_key, min, max] {
                body.extend_from_slice(&number.to_be_bytes());
            }
            if flexible {
                put_uvarint(&mut body, 0);
            }
        }
        if version >= 1 {
            body.extend_from_slice(&0i32.to_be_bytes());
        }
        if flexible {
            put_uvarint(&mut body, 0);
        }
        body
    }

    /// The versions of an API that the client may use: those that the table carries and every cluster knows that the client may come to. `None` where
    /// there are none.
    fn api(&self, api: &Api) -> Option<AdvertisedApi> {
        let (mut min, mut max) = api.advertised()?;
        let is_login = matches!(api.key, ApiKey::SaslHandshake | ApiKey::SaslAuthenticate);
        // These are between client and proxy; a login that the proxy has done is not to be tried again.
        let ours = api.key == ApiKey::ApiVersions || is_login && self.sasl == ClientSasl::Proxy;
        if is_login && self.sasl == ClientSasl::Hidden {
            return None;
        }
        for known in self.versions.iter().filter(|_| !ours) {
            let range = known.range(api.key as i16)?;
            (min, max) = (min.max(range.min), max.min(range.max));
        }
        (min <= max).then_some(AdvertisedApi { api_key: api.key as i16, min, max })
    }
}
