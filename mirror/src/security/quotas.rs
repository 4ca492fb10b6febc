//! The quotas of the source's users, clients and addresses that the target lacks.

use std::collections::BTreeMap;

use kferry_wire::admin::quotas::QuotaEntity;
use kferry_wire::client::{Client, ClientError};

/// The quotas of a cluster: of each entity the values by key, such as `producer_byte_rate`.
pub type Quotas = BTreeMap<QuotaEntity, BTreeMap<String, f64>>;

/// One value of a quota of the source, and what becomes of it.
#[derive(Debug, Clone, PartialEq)]
pub struct QuotaPlan {
    /// The user, client or address that it is for.
    pub entity: QuotaEntity,
    /// The quota's key, such as `producer_byte_rate`.
    pub key: String,
    /// The value on the source.
    pub value: f64,
    /// The value on the target, if it has one. Another than the source's may be on purpose, so it is left as it is.
    pub on_target: Option<f64>,
}

impl QuotaPlan {
    /// Whether both clusters have the same value.
    pub fn is_there(&self) -> bool {
        self.on_target == Some(self.value)
    }
}

/// Decides what becomes of each quota of the source.
pub fn plan(source: &Quotas, target: &Quotas) -> Vec<QuotaPlan> {
    let values = source.iter().flat_map(|(entity, values)| values.iter().map(move |(key, value)| (entity, key, *value)));
    let plan = values.map(|(entity, key, value)| QuotaPlan {
        entity: entity.clone(),
        key: key.clone(),
        value,
        on_target: target.get(entity).and_then(|values| values.get(key)).copied(),
    });
    plan.collect()
}

/// Asks both clusters for their quotas, and decides.
///
/// # Errors
/// [`ClientError`], with the ACL that kferry itself needs.
pub async fn look(source: &Client, target: &Client) -> Result<Vec<QuotaPlan>, ClientError> {
    let (source, target) = tokio::try_join!(source.describe_client_quotas(), target.describe_client_quotas())?;
    Ok(plan(&source, &target))
}

/// Sets the quotas that the target lacks. Gives the entities whose quotas were refused, each with the error.
pub async fn apply(target: &Client, quotas: &[QuotaPlan]) -> Vec<(QuotaEntity, ClientError)> {
    let mut values: BTreeMap<QuotaEntity, BTreeMap<String, Option<f64>>> = BTreeMap::new();
    for quota in quotas.iter().filter(|quota| quota.on_target.is_none()) {
        values.entry(quota.entity.clone()).or_default().insert(quota.key.clone(), Some(quota.value));
    }
    let answers = target.alter_client_quotas(&values, false).await.into_iter();
    answers.filter_map(|(entity, answer)| Some((entity, answer.err()?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lacking_and_what_differs() {
        let entity = |user: Option<&str>| QuotaEntity(BTreeMap::from([("user".to_owned(), user.map(str::to_owned))]));
        let values = |values: &[(&str, f64)]| values.iter().map(|&(key, value)| (key.to_owned(), value)).collect::<BTreeMap<_, _>>();
        let source = Quotas::from([
            (entity(Some("alice")), values(&[("consumer_byte_rate", 1.0), ("producer_byte_rate", 2.0), ("request_percentage", 3.0)])),
            (entity(None), values(&[("producer_byte_rate", 4.0)])),
            // With ZooKeeper users without quotas are listed too.
            (entity(Some("bob")), values(&[])),
        ]);
        let target = Quotas::from([
            (entity(Some("alice")), values(&[("consumer_byte_rate", 1.0), ("producer_byte_rate", 9.0)])),
            (entity(Some("eve")), values(&[("producer_byte_rate", 9.0)])),
        ]);
        let found = plan(&source, &target);
        let found: Vec<_> = found.iter().map(|plan| (plan.entity.to_string(), plan.value, plan.on_target, plan.is_there())).collect();
        let alice = "user alice".to_owned();
        assert_eq!(
            found,
            [
                ("user <default>".to_owned(), 4.0, None, false),
                (alice.clone(), 1.0, Some(1.0), true),
                (alice.clone(), 2.0, Some(9.0), false),
                (alice, 3.0, None, false),
            ]
        );
    }
}
