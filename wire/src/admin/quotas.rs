//! Quotas of users and clients.
//!
//! # References
//! - KIP-546; `org.apache.kafka.common.quota.ClientQuotaEntity`

use std::collections::BTreeMap;
use std::fmt;

use kafka_protocol::messages::alter_client_quotas_request::{EntityData, EntryData, OpData};
use kafka_protocol::messages::{AlterClientQuotasRequest, ApiKey, DescribeClientQuotasRequest};
use kafka_protocol::protocol::VersionRange;

use super::text;
use crate::client::{Answers, Client, ClientError, Node, Nodes, Resend, Subject};

const DESCRIBE_CLIENT_QUOTAS: VersionRange = VersionRange { min: 0, max: 1 };
const ALTER_CLIENT_QUOTAS: VersionRange = VersionRange { min: 0, max: 1 };

/// Whom a quota is for: for each of `user`, `client-id` and `ip` that it is about the name, or `None` for all that have no quota of their own.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct QuotaEntity(pub BTreeMap<String, Option<String>>);

impl fmt::Display for QuotaEntity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (nth, (entity_type, name)) in self.0.iter().enumerate() {
            let separator = if nth == 0 { "" } else { ", " };
            write!(f, "{separator}{entity_type} {}", name.as_deref().unwrap_or("<default>"))?;
        }
        Ok(())
    }
}

impl Client {
    /// All quotas: for each entity the values by key, such as `producer_byte_rate`.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn describe_client_quotas(&self) -> Result<BTreeMap<QuotaEntity, BTreeMap<String, f64>>, ClientError> {
        self.retry(Resend::Always, || async {
            let connection = self.any().await?;
            let request = DescribeClientQuotasRequest::default();
            let (asked, answer) = self.send(&connection, DESCRIBE_CLIENT_QUOTAS, |_| request).await?;
            asked.check(&Subject::cluster(), answer.error_code, answer.error_message.as_ref())?;
            let quotas = answer.entries.iter().flatten().map(|entry| {
                let entity = entry.entity.iter().map(|part| {
                    let name = part.entity_name.as_ref().map(ToString::to_string);
                    (part.entity_type.to_string(), name)
                });
                let values = entry.values.iter().map(|value| (value.key.to_string(), value.value));
                (QuotaEntity(entity.collect()), values.collect())
            });
            Ok(quotas.collect())
        })
        .await
    }

    /// Sets quotas, or takes those away whose value is `None`; or only says whether it could. Those that are not named stay.
    pub async fn alter_client_quotas(
        &self,
        quotas: &BTreeMap<QuotaEntity, BTreeMap<String, Option<f64>>>,
        validate_only: bool,
    ) -> Answers<QuotaEntity, ()> {
        let asked = quotas.iter().map(|(entity, values)| (entity.clone(), values)).collect();
        let any = |_: &QuotaEntity| Node::Any;
        self.spread(ApiKey::AlterClientQuotas, Nodes(any), Resend::Always, asked, |connection, batch| async move {
            let entries = batch.iter().map(|(entity, values)| {
                let entity = entity.0.iter().map(|(entity_type, name)| {
                    EntityData::default().with_entity_type(text(entity_type)).with_entity_name(name.as_deref().map(text))
                });
                let ops = values.iter().map(|(key, value)| {
                    OpData::default().with_key(text(key)).with_value(value.unwrap_or_default()).with_remove(value.is_none())
                });
                EntryData::default().with_entity(entity.collect()).with_ops(ops.collect())
            });
            let request = AlterClientQuotasRequest::default().with_entries(entries.collect()).with_validate_only(validate_only);
            let (asked, answer) = self.send(&connection, ALTER_CLIENT_QUOTAS, |_| request).await?;
            let results = answer.entries.iter().map(|entry| {
                let entity = entry.entity.iter().map(|part| {
                    let name = part.entity_name.as_ref().map(ToString::to_string);
                    (part.entity_type.to_string(), name)
                });
                let entity = QuotaEntity(entity.collect());
                let checked = asked.check(&Subject::other(&entity), entry.error_code, entry.error_message.as_ref());
                (entity, checked)
            });
            Ok(results.collect())
        })
        .await
    }
}
