//! Numbered records of one producer, and what became of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rdkafka::ClientContext;
use rdkafka::error::KafkaError;
use rdkafka::message::{DeliveryResult, Message as _};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _, ProducerContext};

use crate::{Names, Side, Stage};

/// What was acknowledged, and the errors of the rest.
#[derive(Debug, Clone, Default)]
pub(crate) struct Outcome {
    pub acknowledged: Vec<String>,
    pub errors: Vec<KafkaError>,
}

#[derive(Clone, Default)]
struct Deliveries(Arc<Mutex<Outcome>>);

impl ClientContext for Deliveries {}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        let mut outcome = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match result {
            Ok(message) => outcome.acknowledged.push(String::from_utf8_lossy(message.payload().unwrap_or_default()).into_owned()),
            Err((error, _)) => outcome.errors.push(error.clone()),
        }
    }
}

impl Stage {
    /// Sends so many records, `what 0` and on, each at most for `limit`; every producer is a new one.
    pub(crate) fn send(&self, home: Side, topic: &str, what: &str, count: usize, limit: Duration) -> Result<Outcome> {
        let mut config = self.client(&home.client(what));
        config.set("enable.idempotence", "true").set("message.timeout.ms", limit.as_millis().to_string());
        let producer: BaseProducer<Deliveries> = config.create_with_context(Deliveries::default())?;
        for n in 0..count {
            let value = format!("{home:?} {what} {n}");
            producer.send(BaseRecord::<str, str>::to(topic).key(&n.to_string()).payload(&value)).map_err(|(error, _)| error)?;
        }
        producer.flush(limit + Duration::from_secs(10))?;
        let outcome = producer.context().0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        ensure!(outcome.acknowledged.len() + outcome.errors.len() == count, "{} of {count} were reported", outcome.acknowledged.len());
        Ok(outcome)
    }

    /// Exactly these values are in the log of the leader, each once, those of one producer in their order.
    pub(crate) fn has_exactly(&self, side: Side, topic: &str, values: &[String]) -> Result<()> {
        let (mut found, mut last) = (BTreeSet::new(), BTreeMap::new());
        for record in self.cluster(side).read_all(topic)? {
            let value = String::from_utf8(record.value.context("a value")?)?;
            let (producer, number) = value.rsplit_once(' ').with_context(|| format!("a record of somebody else: {value}"))?;
            let number: usize = number.parse()?;
            let before = last.insert((record.partition, producer.to_owned()), number);
            ensure!(before < Some(number), "{topic}-{}: {value} is behind {before:?}", record.partition);
            ensure!(found.insert(value.clone()), "{topic} has {value} twice");
        }
        let expected: BTreeSet<String> = values.iter().cloned().collect();
        let (more, missing): (Vec<_>, Vec<_>) = (found.difference(&expected).collect(), expected.difference(&found).collect());
        ensure!(
            missing.is_empty() && more.is_empty(),
            "{topic} on {side:?} lacks {missing:?}, and has {more:?} that were not acknowledged"
        );
        Ok(())
    }
}
