//! What `/metrics` shows is what the programs say that they export. The documents and the dashboards are held to that list, so nothing may be beside it.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, ensure};
use kferry_wire::operators::{Metric, PROCESS};

/// The labels of each metric, by its name as a query has it.
pub type Exported = BTreeMap<String, BTreeSet<&'static str>>;

/// What kferry-proxy exports.
pub fn by_proxy() -> Exported {
    use kferry_proxy::metrics::{COUNTERS, GAUGES, HISTOGRAMS};
    let mut all = with_process(&[GAUGES, COUNTERS].concat());
    for (name, labels, _) in HISTOGRAMS {
        let labels: BTreeSet<_> = labels.iter().copied().collect();
        all.insert(format!("{name}_sum"), labels.clone());
        all.insert(format!("{name}_count"), labels.clone());
        all.insert(format!("{name}_bucket"), labels.into_iter().chain(["le"]).collect());
    }
    all
}

/// What kferry-mirror exports.
pub fn by_mirror() -> Exported {
    use kferry_mirror::metrics::{COUNTERS, GAUGES};
    with_process(&[GAUGES, COUNTERS].concat())
}

fn with_process(metrics: &[Metric]) -> Exported {
    let own = metrics.iter().map(|(name, labels, _)| ((*name).to_owned(), labels.iter().copied().collect()));
    own.chain(PROCESS.iter().map(|name| ((*name).to_owned(), BTreeSet::new()))).collect()
}

/// Fails for a series that is not among them, or has other labels.
pub fn check(text: &str, exported: &Exported) -> Result<()> {
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let end = line.find(['{', ' ']).with_context(|| format!("no series: {line}"))?;
        let labels = exported.get(&line[..end]).with_context(|| format!("exported, and in no list of metrics: {line}"))?;
        let shown = labels_of(&line[end..]).with_context(|| format!("no series: {line}"))?;
        ensure!(shown == *labels, "{line} has the labels {shown:?}, by its list {labels:?}");
    }
    Ok(())
}

/// The names in `{name="value",...}`.
fn labels_of(text: &str) -> Option<BTreeSet<&str>> {
    let mut names = BTreeSet::new();
    let Some(mut rest) = text.strip_prefix('{') else { return Some(names) };
    loop {
        let (name, value) = rest.split_once("=\"")?;
        names.insert(name);
        let mut escaped = false;
        let end = value.find(|c| {
            let ends = c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
            ends
        })?;
        rest = &value[end + 1..];
        match rest.strip_prefix(',') {
            Some(more) => rest = more,
            None => return rest.starts_with('}').then_some(names),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_is_checked_by_name_and_labels() {
        let exported: Exported = [("a_total".to_owned(), BTreeSet::from(["x", "y"])), ("b".to_owned(), BTreeSet::new())].into();
        let told = |line: &str| check(line, &exported).map_err(|error| error.to_string());
        assert_eq!(told("# HELP a_total A\na_total{y=\"1,{\\\"=\",x=\"\"} 1\n\nb NaN"), Ok(()));
        assert!(told("c 1").unwrap_err().contains("in no list"));
        assert!(told("a_total{x=\"1\"} 1").unwrap_err().contains("by its list"));
        assert!(told("b{x=\"1\"} 1").unwrap_err().contains("by its list"));
        assert!(told("b{x=\"1} 1").unwrap_err().contains("no series"));
    }
}
