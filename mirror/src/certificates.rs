//! Until when the certificates are good that connections to the clusters use. Each connection reads the files anew, so they are looked at now and then.

use std::sync::Arc;
use std::time::Duration;

use kferry_config::{CertificateFile, Mirror};
use kferry_wire::files::Reads;
use kferry_wire::security::tls::not_after;
use metrics::gauge;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::metrics::CERTIFICATE;

/// How often.
const LOOK: Duration = Duration::from_mins(1);

/// Tells the metric of the files that the clusters of these mirrors name, until `stop`. What cannot be read stays as it was: a connection says why.
pub async fn watch(mirrors: impl IntoIterator<Item = Arc<Mirror>>, stop: CancellationToken) {
    let clusters = mirrors.into_iter().flat_map(|mirror| [mirror.source.clone(), mirror.target.clone()]);
    let files: Arc<[CertificateFile]> = clusters.flat_map(|cluster| cluster.certificates()).collect();
    let reads = Reads::new(1);
    loop {
        let read = files.clone();
        let dates = reads.run(move || read.iter().map(not_after).collect::<Vec<_>>()).await.unwrap_or_default();
        for (file, not_after) in files.iter().zip(dates) {
            if let Some(not_after) = not_after {
                gauge!(CERTIFICATE, "table" => file.table.clone(), "key" => file.holds.key()).set(not_after as f64);
            }
        }
        tokio::select! {
            () = sleep(LOOK) => {}
            () = stop.cancelled() => return,
        }
    }
}
