//! The files of `routes.toml` that hold certificates, for whoever watches over their dates.

use std::path::{Path, PathBuf};

use super::cluster::Cluster;
use super::proxy::Listener;

/// A file with certificates, and where `routes.toml` names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFile {
    /// The table: `clusters.NAME` or `listeners.NAME`.
    pub table: String,
    /// What is in it, which says the key.
    pub holds: Certificates,
    /// Where it is.
    pub path: PathBuf,
}

/// What the certificates in a file are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Certificates {
    /// kferry's own, and its intermediates: each is shown to the other side.
    Own,
    /// Authorities: any of them may have signed what the other side shows.
    Authorities,
}

impl Certificates {
    /// The key of the file.
    pub fn key(self) -> &'static str {
        match self {
            Self::Own => "ssl_certificate_location",
            Self::Authorities => "ssl_ca_location",
        }
    }
}

impl Cluster {
    /// The files with certificates that a connection to this cluster uses.
    pub fn certificates(&self) -> Vec<CertificateFile> {
        let Some(tls) = &self.security.tls else { return Vec::new() };
        let own = tls.identity.as_ref().map(|identity| identity.certificate.as_path());
        files(&format!("clusters.{}", self.name), own, tls.ca.as_deref())
    }
}

impl Listener {
    /// The files with certificates that this listener uses.
    pub fn certificates(&self) -> Vec<CertificateFile> {
        let Some(tls) = &self.tls else { return Vec::new() };
        let authorities = tls.client_auth.as_ref().map(|auth| auth.ca.as_path());
        files(&format!("listeners.{}", self.name), Some(&tls.identity.certificate), authorities)
    }
}

fn files(table: &str, own: Option<&Path>, authorities: Option<&Path>) -> Vec<CertificateFile> {
    let file =
        |(holds, path): (Certificates, Option<&Path>)| Some(CertificateFile { table: table.to_owned(), holds, path: path?.to_owned() });
    [(Certificates::Own, own), (Certificates::Authorities, authorities)].into_iter().filter_map(file).collect()
}
