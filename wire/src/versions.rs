//! What a broker says that it knows: the answer to ApiVersions.
//!
//! It is the first thing that comes from an unknown peer, perhaps no Kafka at all: so it is read by the cursor of `reader`, and not by a
//! codec that trusts its counts.
//!
//! # References
//! - `ApiVersionsResponse.json`; KIP-511 (error 35 comes in a v0 body, with the list), KIP-584 (features), KIP-778 (`metadata.version`)
//! - `org.apache.kafka.server.common.MetadataVersion`

use std::collections::BTreeMap;
use std::fmt;

use kafka_protocol::messages::ApiKey;
use kafka_protocol::protocol::VersionRange;

use crate::reader::{Malformed, Reader};

/// What a broker knows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Versions {
    ranges: BTreeMap<i16, (i16, i16)>,
    supported_metadata_version: Option<i16>,
    finalized_metadata_version: Option<i16>,
}

impl Versions {
    /// Reads the body of an answer, its version as it was asked for. Returns the answer's `error_code` too: 35 (`UNSUPPORTED_VERSION`)
    /// comes in a v0 body whatever was asked for.
    pub(crate) fn read(body: &[u8], version: i16) -> Result<(i16, Self), Malformed> {
        let mut body = Reader::new(body);
        let error_code = body.i16()?;
        let version = if error_code == 35 { 0 } else { version };
        let flexible = version >= 3;
        let mut versions = Self::default();
        let count = if flexible { body.compact_count()? } else { body.count()? };
        for _ in 0..count {
            let (api_key, min, max) = (body.i16()?, body.i16()?, body.i16()?);
            versions.ranges.insert(api_key, (min, max));
            if flexible {
                body.skip_tagged_fields()?;
            }
        }
        if version >= 1 {
            let _throttle_time_ms = body.i32()?;
        }
        if flexible {
            body.tagged_fields(|tag, field| {
                match tag {
                    // supported_features: min_version, max_version
                    0 => versions.supported_metadata_version = metadata_version(field)?.map(|(_, max)| max),
                    // finalized_features: max_version_level, min_version_level
                    2 => versions.finalized_metadata_version = metadata_version(field)?.map(|(max, _)| max),
                    _ => {}
                }
                Ok(())
            })?;
        }
        Ok((error_code, versions))
    }

    /// The versions of an API that the broker knows, `None` if it has never heard of it.
    pub fn range(&self, api_key: i16) -> Option<VersionRange> {
        self.ranges.get(&api_key).map(|&(min, max)| VersionRange { min, max })
    }

    /// The highest version that the broker and we know.
    pub fn highest(&self, api_key: i16, ours: VersionRange) -> Option<i16> {
        let both = self.range(api_key)?.intersect(&ours);
        (!both.is_empty()).then_some(both.max)
    }

    /// The finalized `metadata.version` of a `KRaft` cluster: what its brokers have agreed on, which may be older than what they are.
    pub fn metadata_version(&self) -> Option<i16> {
        self.finalized_metadata_version.filter(|level| *level > 0)
    }

    /// Which Kafka the broker is, as far as its answer tells.
    pub fn release(&self) -> Release {
        match self.supported_metadata_version {
            Some(level) => Release::of_metadata_version(level),
            None => Release::of_api_versions(|key, at_least| self.ranges.get(&(key as i16)).is_some_and(|(_, max)| *max >= at_least)),
        }
    }
}

/// A release of Apache Kafka, or what is compatible with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Release {
    /// This one, by its first two numbers.
    Is(&'static str),
    /// This one or a later one.
    AtLeast(&'static str),
    /// Older than this one.
    Before(&'static str),
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Is(release) => f.write_str(release),
            Self::AtLeast(release) => write!(f, "at least {release}"),
            Self::Before(release) => write!(f, "before {release}"),
        }
    }
}

/// The highest `metadata.version` of each release. Brokers say since 3.3 which ones they support, also those with ZooKeeper.
const METADATA_VERSIONS: [(i16, &str); 15] = [
    (1, "3.0"),
    (2, "3.1"),
    (3, "3.2"),
    (7, "3.3"),
    (8, "3.4"),
    (11, "3.5"),
    (14, "3.6"),
    (19, "3.7"),
    (20, "3.8"),
    (21, "3.9"),
    (25, "4.0"),
    (27, "4.1"),
    (29, "4.2"),
    (30, "4.3"),
    (31, "4.4"),
];

/// For each release, newest first, an API version that it brought, with ZooKeeper as with `KRaft`.
const API_VERSIONS: [(ApiKey, i16, &str); 14] = [
    (ApiKey::DescribeLogDirs, 4, "3.3"),
    (ApiKey::JoinGroup, 9, "3.2"),
    (ApiKey::Metadata, 12, "3.1"),
    (ApiKey::FindCoordinator, 4, "3.0"),
    (ApiKey::DescribeCluster, 0, "2.8"),
    (ApiKey::Fetch, 12, "2.7"),
    (ApiKey::ListGroups, 4, "2.6"),
    (ApiKey::OffsetFetch, 7, "2.5"),
    (ApiKey::ApiVersions, 3, "2.4"),
    (ApiKey::Fetch, 11, "2.3"),
    (ApiKey::ListOffsets, 5, "2.2"),
    (ApiKey::Fetch, 10, "2.1"),
    (ApiKey::Fetch, 8, "2.0"),
    (ApiKey::DeleteGroups, 0, "1.1"),
];

impl Release {
    /// The release that brought a `metadata.version`.
    pub fn of_metadata_version(level: i16) -> Self {
        match METADATA_VERSIONS.iter().find(|(highest, _)| level <= *highest) {
            Some((_, release)) => Self::Is(release),
            None => Self::AtLeast(METADATA_VERSIONS[METADATA_VERSIONS.len() - 1].1),
        }
    }

    fn of_api_versions(knows: impl Fn(ApiKey, i16) -> bool) -> Self {
        match API_VERSIONS.iter().position(|(key, version, _)| knows(*key, *version)) {
            Some(0) => Self::AtLeast(API_VERSIONS[0].2),
            Some(at) => Self::Is(API_VERSIONS[at].2),
            None => Self::Before(API_VERSIONS[API_VERSIONS.len() - 1].2),
        }
    }
}

/// Finds `metadata.version` in an array of features: both kinds are a name and two numbers.
fn metadata_version(mut features: Reader<'_>) -> Result<Option<(i16, i16)>, Malformed> {
    let mut found = None;
    for _ in 0..features.compact_count()? {
        let name = features.compact_string()?;
        let numbers = (features.i16()?, features.i16()?);
        features.skip_tagged_fields()?;
        if name == "metadata.version" {
            found = Some(numbers);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use kafka_protocol::messages::ApiVersionsResponse;
    use kafka_protocol::messages::api_versions_response::{ApiVersion, FinalizedFeatureKey, SupportedFeatureKey};
    use kafka_protocol::protocol::{Encodable, StrBytes};
    use proptest::prelude::*;

    fn answer(error_code: i16, apis: &[(i16, i16, i16)], supported: Option<i16>, finalized: Option<i16>) -> ApiVersionsResponse {
        let name = || StrBytes::from_static_str("metadata.version");
        let group = SupportedFeatureKey::default().with_name(StrBytes::from_static_str("group.version")).with_max_version(1);
        let apis = apis.iter().map(|&(key, min, max)| ApiVersion::default().with_api_key(key).with_min_version(min).with_max_version(max));
        let supported = supported.map(|max| SupportedFeatureKey::default().with_name(name()).with_min_version(7).with_max_version(max));
        let finalized =
            finalized.map(|max| FinalizedFeatureKey::default().with_name(name()).with_max_version_level(max).with_min_version_level(7));
        ApiVersionsResponse::default()
            .with_error_code(error_code)
            .with_api_keys(apis.collect())
            .with_supported_features(supported.map(|feature| vec![group, feature]).unwrap_or_default())
            .with_finalized_features(finalized.into_iter().collect())
            .with_unknown_tagged_field(77, bytes::Bytes::from_static(b"from the future"))
    }

    fn encoded(answer: &ApiVersionsResponse, version: i16) -> Vec<u8> {
        let answer = if version < 3 { answer.clone().with_unknown_tagged_fields(BTreeMap::default()) } else { answer.clone() };
        let mut body = Vec::new();
        answer.encode(&mut body, version).unwrap();
        body
    }

    #[test]
    fn every_version_of_the_answer_is_read() {
        for version in 0..=4 {
            let features = (version >= 3).then_some(30);
            let (error_code, versions) =
                Versions::read(&encoded(&answer(0, &[(3, 0, 13), (18, 0, 4)], features, features), version), version).unwrap();
            assert_eq!(error_code, 0);
            assert_eq!(versions.range(3), Some(VersionRange { min: 0, max: 13 }));
            assert_eq!(versions.range(1), None);
            assert_eq!(versions.metadata_version(), features);
        }
    }

    #[test]
    fn error_35_comes_in_a_v0_body() {
        let (error_code, versions) = Versions::read(&encoded(&answer(35, &[(18, 0, 2)], None, None), 0), 3).unwrap();
        assert_eq!((error_code, versions.range(18)), (35, Some(VersionRange { min: 0, max: 2 })));
    }

    #[test]
    fn the_highest_common_version_or_none() {
        let (_, versions) = Versions::read(&encoded(&answer(0, &[(3, 4, 9)], None, None), 0), 0).unwrap();
        let highest = |min, max| versions.highest(3, VersionRange { min, max });
        assert_eq!((highest(0, 13), highest(0, 6), highest(0, 3), highest(10, 13)), (Some(9), Some(6), None, None));
        assert_eq!(versions.highest(4, VersionRange { min: 0, max: 1 }), None);
    }

    #[test]
    fn the_release_is_read_from_the_supported_metadata_version_not_the_finalized_one() {
        let release =
            |supported| Versions::read(&encoded(&answer(0, &[], Some(supported), Some(7)), 3), 3).unwrap().1.release().to_string();
        assert_eq!([21, 22, 25, 27, 30].map(release), ["3.9", "4.0", "4.0", "4.1", "4.3"]);
        assert_eq!(release(99), "at least 4.4");
    }

    #[test]
    fn without_features_the_release_is_told_by_the_apis() {
        let release =
            |apis: &[(i16, i16, i16)]| Versions::read(&encoded(&answer(0, apis, None, None), 0), 0).unwrap().1.release().to_string();
        assert_eq!(release(&[(1, 0, 12), (60, 0, 0), (10, 0, 3)]), "2.8");
        assert_eq!(release(&[(1, 0, 11), (18, 0, 3), (9, 0, 6)]), "2.4");
        assert_eq!(release(&[(35, 0, 4)]), "at least 3.3");
        assert_eq!(release(&[(1, 0, 2), (18, 0, 0)]), "before 1.1");
    }

    #[test]
    fn a_count_of_two_billion_costs_nothing() {
        assert_eq!(Versions::read(&[0, 0, 0x7f, 0xff, 0xff, 0xff], 0), Err(Malformed::Short));
        assert_eq!(Versions::read(&[0, 0, 0xff, 0xff, 0xff, 0xff, 0x0f], 3), Err(Malformed::Short));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(body: Vec<u8>, version in 0i16..5) {
            let _ = Versions::read(&body, version);
        }

        #[test]
        fn a_cut_answer_is_broken(cut in 0usize..100) {
            let whole = encoded(&answer(0, &[(3, 0, 13), (18, 0, 4)], Some(30), Some(30)), 3);
            prop_assume!(cut < whole.len());
            prop_assert_eq!(Versions::read(&whole[..cut], 3), Err(Malformed::Short));
        }
    }
}
