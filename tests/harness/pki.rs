//! The certificate authority of a run: one for the whole process, made on first use, never on a real machine's trust list.
//!
//! Every certificate and key is there as PEM text and as a file; keys are PKCS#8, the only form that Kafka's PEM key stores (KIP-651) read.

use std::fs;
use std::path::PathBuf;
use std::sync::OnceLock;

use anyhow::{Context as _, Result};
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, date_time_ymd};

use crate::run;

/// The authority: it signs servers' and clients' certificates.
#[derive(Debug)]
pub struct Pki {
    issuer: Issuer<'static, KeyPair>,
    folder: PathBuf,
    /// The authority's own certificate.
    pub ca_pem: String,
    /// The file that holds `ca_pem`: `ssl.ca.location` of a client.
    pub ca_path: PathBuf,
}

/// Certificates are good until its last day.
const LAST_YEAR: i32 = 2049;

/// A certificate and its private key.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The certificate.
    pub certificate_pem: String,
    /// The private key, PKCS#8, not encrypted.
    pub key_pem: String,
    /// The file that holds `certificate_pem`.
    pub certificate_path: PathBuf,
    /// The file that holds `key_pem`.
    pub key_path: PathBuf,
}

/// The authority of this run.
pub fn authority() -> Result<&'static Pki> {
    static PKI: OnceLock<Result<Pki, String>> = OnceLock::new();
    PKI.get_or_init(|| Pki::new().map_err(|error| format!("{error:#}"))).as_ref().map_err(|error| anyhow::anyhow!("{error}"))
}

impl Pki {
    /// A new authority, which nothing trusts that trusts another one.
    pub fn new() -> Result<Self> {
        let mut params = params("kferry test authority", &[])?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate()?;
        let ca_pem = params.self_signed(&key)?.pem();
        let folder = run::folder("pki")?;
        let ca_path = folder.join("ca.pem");
        fs::write(&ca_path, &ca_pem).with_context(|| format!("{} can't be written", ca_path.display()))?;
        Ok(Self { issuer: Issuer::new(params, key), folder, ca_pem, ca_path })
    }

    /// A certificate for a server on this machine: `127.0.0.1`, `::1`, `localhost`, and `names` (host names or addresses).
    pub fn server(&self, names: &[&str]) -> Result<Identity> {
        self.server_until(LAST_YEAR, names)
    }

    /// The same, good until the last day of that year.
    pub fn server_until(&self, year: i32, names: &[&str]) -> Result<Identity> {
        let mut all = vec!["localhost", "127.0.0.1", "::1"];
        all.extend(names);
        let mut params = params("localhost", &all)?;
        params.not_after = date_time_ymd(year, 12, 31);
        self.sign(params, ExtendedKeyUsagePurpose::ServerAuth)
    }

    /// A certificate for a client: brokers of this test bed know it as `User:<name>`.
    pub fn client(&self, name: &str) -> Result<Identity> {
        self.sign(params(name, &[])?, ExtendedKeyUsagePurpose::ClientAuth)
    }

    fn sign(&self, mut params: CertificateParams, usage: ExtendedKeyUsagePurpose) -> Result<Identity> {
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate()?;
        let certificate_pem = params.signed_by(&key, &self.issuer)?.pem();
        let key_pem = key.serialize_pem();
        let folder = tempfile::Builder::new().prefix("identity-").tempdir_in(&self.folder)?.keep();
        let [certificate_path, key_path] = ["certificate.pem", "key.pem"].map(|file| folder.join(file));
        fs::write(&certificate_path, &certificate_pem)?;
        fs::write(&key_path, &key_pem)?;
        Ok(Identity { certificate_pem, key_pem, certificate_path, key_path })
    }
}

fn params(common_name: &str, names: &[&str]) -> Result<CertificateParams> {
    let mut params = CertificateParams::new(names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>())?;
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(LAST_YEAR, 12, 31);
    Ok(params)
}
