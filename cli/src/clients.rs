//! Which clients a proxy has seen: its `/clients`, asked for or saved.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read as _;
use std::net::IpAddr;
use std::path::Path;

use serde::Deserialize;

use crate::http::{self, MAX_BODY};

/// What a proxy answers, as far as it is read.
#[derive(Debug, Deserialize)]
pub(crate) struct Answer {
    pub(crate) clients: Vec<Row>,
}

/// A client, its address and a cluster.
#[derive(Debug, Deserialize)]
pub(crate) struct Row {
    pub(crate) client_id: String,
    pub(crate) software_name: Option<String>,
    pub(crate) software_version: Option<String>,
    pub(crate) address: IpAddr,
    pub(crate) tls_subject: Option<String>,
    pub(crate) cluster: Option<String>,
    /// Not there from a proxy that is older; so are the others with a default.
    #[serde(default)]
    pub(crate) stays_with_dead_brokers: bool,
    /// The first 50 of those that it has produced to as a relayed client that sees several clusters.
    #[serde(default)]
    pub(crate) topics_produced: BTreeSet<String>,
    /// The first 50 of those that it has joined as such.
    #[serde(default)]
    pub(crate) groups_joined: BTreeSet<String>,
}

impl Answer {
    /// Asks the proxy whose admin address is `HOST:PORT`.
    ///
    /// # Errors
    /// Why there is no answer, for people.
    pub(crate) async fn ask(admin: &str) -> Result<Self, String> {
        let answer = http::get(admin, "/clients").await.map_err(|error| error.to_string())?;
        Self::read(&answer)
    }

    /// From `http://HOST:PORT`, or from a file with the answer.
    ///
    /// # Errors
    /// A whole sentence.
    pub(crate) async fn of(place: &str) -> Result<Self, String> {
        let answer = match place.split_once("://") {
            Some(("http", rest)) => match rest.split_once('/') {
                None | Some((_, "" | "clients")) => Self::ask(rest.split('/').next().unwrap_or(rest)).await,
                Some(_) => Err("write http://HOST:PORT, the admin address of the proxy".to_owned()),
            },
            Some(_) => {
                Err("the admin address of a proxy speaks plain HTTP; save what its /clients answers in a file, and name that".to_owned())
            }
            None => Self::saved(Path::new(place)),
        };
        answer.map_err(|reason| format!("--clients {place}: {reason}"))
    }

    fn saved(path: &Path) -> Result<Self, String> {
        let mut text = Vec::new();
        let file = File::open(path).map_err(|error| error.to_string())?;
        file.take(MAX_BODY as u64 + 1).read_to_end(&mut text).map_err(|error| error.to_string())?;
        if text.len() > MAX_BODY {
            return Err(format!("it has more than {MAX_BODY} bytes, and is not /clients of a proxy"));
        }
        Self::read(&text)
    }

    fn read(text: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(text).map_err(|error| format!("its answer is not /clients of a proxy: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    const ROW: &str =
        r#"{"client_id":"orders-7","software_name":null,"software_version":null,"address":"10.1.2.3","tls_subject":null,"cluster":"new""#;

    #[tokio::test]
    async fn a_saved_answer_is_read_and_what_is_none_is_told() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        write!(file, r#"{{"clients":[{ROW},"topics_produced":["orders"],"groups_joined":["shop"]}},{ROW}}}]}}"#).unwrap();
        let answer = Answer::of(file.path().to_str().unwrap()).await.unwrap();
        assert_eq!((answer.clients.len(), answer.clients[0].topics_produced.len()), (2, 1));
        // Of an older proxy.
        assert!(answer.clients[0].groups_joined.contains("shop") && answer.clients[1].groups_joined.is_empty());
        for (place, says) in [
            ("/nowhere/clients.json", "--clients /nowhere/clients.json: No such file"),
            ("https://proxy:9190", "speaks plain HTTP"),
            ("http://proxy:9190/metrics", "write http://HOST:PORT"),
            ("http://127.0.0.1:1", "--clients http://127.0.0.1:1: "),
            ("/dev/null", "not /clients of a proxy"),
            ("/dev/zero", "more than 33554432 bytes"),
        ] {
            let told = Answer::of(place).await.unwrap_err();
            assert!(told.contains(says), "{told}");
        }
    }
}
