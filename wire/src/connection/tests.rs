use super::connect::Attempt;
use super::*;
use tokio::time::timeout;

use kafka_protocol::messages::metadata_response::MetadataResponseBroker;
use kafka_protocol::messages::{
    ApiVersionsRequest, ApiVersionsResponse, BrokerId, MetadataRequest, MetadataResponse, ResponseHeader, SaslAuthenticateRequest,
    SaslAuthenticateResponse, SaslHandshakeRequest, SaslHandshakeResponse,
};
use kafka_protocol::protocol::Encodable as _;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, DuplexStream};
use tokio::time::Instant;

use kferry_config::{Sasl, SaslMechanism, Secret};

const METADATA_VERSION: i16 = 9;
const METADATA: VersionRange = VersionRange { min: 0, max: 13 };

fn broker() -> HostPort {
    HostPort { host: "broker-1".to_owned(), port: 9092 }
}

/// A logged-in connection, and the broker's end of it.
fn open(options: &ConnectOptions) -> (Connection, DuplexStream) {
    open_with("PLAINTEXT", options)
}

fn open_with(protocol: &'static str, options: &ConnectOptions) -> (Connection, DuplexStream) {
    let (near, far) = tokio::io::duplex(1 << 20);
    let principal = "User:ANONYMOUS".to_owned();
    let peer = Peer { broker: broker(), protocol, principal, versions: Versions::default(), session: None };
    (Connection::start(near, BytesMut::new(), peer, options), far)
}

fn answer<R: Request>(correlation_id: i32, version: i16, body: &R::Response) -> Vec<u8> {
    let mut frame = vec![0; SIZE_LEN];
    ResponseHeader::default().with_correlation_id(correlation_id).encode(&mut frame, api::<R>().response_header_version(version)).unwrap();
    body.encode(&mut frame, version).unwrap();
    let size = (frame.len() - SIZE_LEN) as i32;
    frame[..SIZE_LEN].copy_from_slice(&size.to_be_bytes());
    frame
}

/// A Metadata answer that carries a number, so that one can tell them apart.
fn metadata(correlation_id: i32) -> Vec<u8> {
    let node = MetadataResponseBroker::default().with_node_id(BrokerId(1000 + correlation_id));
    answer::<MetadataRequest>(correlation_id, METADATA_VERSION, &MetadataResponse::default().with_brokers(vec![node]))
}

fn node_of(answer: Result<MetadataResponse, RequestError>) -> i32 {
    answer.unwrap().brokers[0].node_id.0
}

async fn ask(connection: &Connection) -> Result<MetadataResponse, RequestError> {
    connection.request(&MetadataRequest::default(), METADATA_VERSION).await
}

/// The correlation id of the next request.
async fn next(far: &mut DuplexStream, buf: &mut BytesMut) -> i32 {
    let frame = read_frame(far, 1 << 20, buf).await.unwrap();
    crate::header::RequestHeader::peek(&frame).unwrap().correlation_id
}

fn broken_text(error: &RequestError) -> String {
    assert!(matches!(error, RequestError::Broken { .. }), "{error}");
    error.to_string()
}

#[tokio::test]
async fn requests_go_out_at_once_and_each_caller_gets_its_own_answer() {
    let (connection, mut far) = open(&ConnectOptions::default());
    let broker = async {
        let mut buf = BytesMut::new();
        // All three are there before the first is answered.
        let ids = [next(&mut far, &mut buf).await, next(&mut far, &mut buf).await, next(&mut far, &mut buf).await];
        for id in ids {
            far.write_all(&metadata(id)).await.unwrap();
        }
        ids
    };
    let (first, second, third, ids) = tokio::join!(ask(&connection), ask(&connection), ask(&connection), broker);
    assert_eq!([first, second, third].map(node_of), ids.map(|id| 1000 + id));
}

#[tokio::test]
async fn a_caller_that_goes_away_costs_the_others_nothing() {
    let (connection, mut far) = open(&ConnectOptions::default());
    let mut buf = BytesMut::new();
    {
        let given_up = ask(&connection);
        tokio::pin!(given_up);
        tokio::select! {
            _ = &mut given_up => panic!("nobody answers"),
            id = next(&mut far, &mut buf) => far.write_all(&metadata(id)).await.unwrap(),
        }
    }
    let broker = async {
        let id = next(&mut far, &mut buf).await;
        far.write_all(&metadata(id)).await.unwrap();
        id
    };
    let (answer, id) = tokio::join!(ask(&connection), broker);
    assert_eq!(node_of(answer), 1000 + id);
}

#[tokio::test]
async fn a_cut_connection_fails_everything_in_flight_and_everything_later() {
    let (connection, mut far) = open(&ConnectOptions::default());
    let broker = async move {
        let mut buf = BytesMut::new();
        let id = next(&mut far, &mut buf).await;
        next(&mut far, &mut buf).await;
        next(&mut far, &mut buf).await;
        far.write_all(&metadata(id)).await.unwrap();
        far.write_all(&metadata(id)[..9]).await.unwrap();
    };
    let (first, second, third, ()) = tokio::join!(ask(&connection), ask(&connection), ask(&connection), broker);
    assert!(first.is_ok());
    let text = broken_text(&second.unwrap_err());
    assert!(text.starts_with("broker-1:9092: the connection failed: the connection was closed after 5 bytes"), "{text}");
    assert_eq!(broken_text(&third.unwrap_err()), text);
    assert_eq!(broken_text(&ask(&connection).await.unwrap_err()), text);
    assert!(connection.is_broken().is_some());
}

#[tokio::test]
async fn a_broker_that_hangs_up_on_the_first_request_points_to_the_settings() {
    let (connection, mut far) = open(&ConnectOptions::default());
    let broker = async move { next(&mut far, &mut BytesMut::new()).await };
    let (answer, _) = tokio::join!(ask(&connection), broker);
    let text = broken_text(&answer.unwrap_err());
    assert!(text.contains("as listeners with SASL do with clients that do not log in: this connection used PLAINTEXT"), "{text}");
}

#[tokio::test]
async fn a_broker_that_hangs_up_after_a_login_has_just_closed() {
    for protocol in ["SASL_PLAINTEXT", "SASL_SSL"] {
        let (connection, mut far) = open_with(protocol, &ConnectOptions::default());
        let broker = async move { next(&mut far, &mut BytesMut::new()).await };
        let (answer, _) = tokio::join!(ask(&connection), broker);
        assert!(broken_text(&answer.unwrap_err()).ends_with("the broker closed the connection"));
    }
}

#[tokio::test]
async fn a_broker_that_hangs_up_while_nobody_asks_has_just_closed() {
    let (connection, far) = open(&ConnectOptions::default());
    drop(far);
    while connection.is_broken().is_none() {
        tokio::task::yield_now().await;
    }
    assert!(broken_text(&ask(&connection).await.unwrap_err()).ends_with("the broker closed the connection"));
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_does_not_come_in_time_breaks_the_connection() {
    let options = ConnectOptions { request_timeout: Duration::from_secs(3), ..ConnectOptions::default() };
    let (connection, mut far) = open(&options);
    let begin = Instant::now();
    let text = broken_text(&ask(&connection).await.unwrap_err());
    assert_eq!(begin.elapsed(), Duration::from_secs(3));
    assert!(text.contains("no answer to Metadata within 3s"), "{text}");
    assert_eq!(broken_text(&ask(&connection).await.unwrap_err()), text);
    // The socket is closed behind the request.
    let mut sent = Vec::new();
    far.read_to_end(&mut sent).await.unwrap();
    assert_eq!(sent.len(), SIZE_LEN + i32::from_be_bytes(*sent.first_chunk().unwrap()) as usize);
}

#[tokio::test]
async fn an_answer_to_another_question_breaks_the_connection() {
    let (connection, mut far) = open(&ConnectOptions::default());
    let broker = async {
        let id = next(&mut far, &mut BytesMut::new()).await;
        far.write_all(&metadata(id + 1)).await.unwrap();
    };
    let (answer, ()) = tokio::join!(ask(&connection), broker);
    let text = broken_text(&answer.unwrap_err());
    assert!(text.contains("correlation_id 1 instead of Some(0)"), "{text}");
}

#[tokio::test]
async fn an_answer_that_cannot_be_read_fails_one_request_only() {
    let (connection, mut far) = open(&ConnectOptions::default());
    let broker = async {
        let mut buf = BytesMut::new();
        let id = next(&mut far, &mut buf).await;
        far.write_all(&[0, 0, 0, 5, 0, 0, 0, id as u8, 0]).await.unwrap();
        let id = next(&mut far, &mut buf).await;
        far.write_all(&metadata(id)).await.unwrap();
    };
    let asked = async { (ask(&connection).await, ask(&connection).await) };
    let ((bad, good), ()) = tokio::join!(asked, broker);
    let text = bad.unwrap_err().to_string();
    assert!(text.starts_with("broker-1:9092 answered Metadata v9 with something that cannot be read"), "{text}");
    assert_eq!(node_of(good), 1001);
}

#[tokio::test]
async fn an_answer_of_two_gigabytes_is_refused_by_its_size() {
    let (connection, mut far) = open(&ConnectOptions { max_response_bytes: 1 << 20, ..ConnectOptions::default() });
    let broker = async {
        next(&mut far, &mut BytesMut::new()).await;
        far.write_all(&i32::MAX.to_be_bytes()).await.unwrap();
        // Not closed: it must not be waited for.
        far
    };
    let (answer, _far) = tokio::join!(ask(&connection), broker);
    let text = broken_text(&answer.unwrap_err());
    assert!(text.contains("a frame of 2147483647 bytes, the limit is 1048576"), "{text}");
}

#[test]
fn a_version_that_nobody_shares_says_who_is_too_old() {
    let versions = |min: i16, max: i16| {
        let mut body = vec![0, 0, 0, 0, 0, 1, 0, 3];
        body.extend([min.to_be_bytes(), max.to_be_bytes()].concat());
        Versions::read(&body, 0).unwrap().1
    };
    let text = |versions: &Versions| version_for::<MetadataRequest>(versions, METADATA, &broker()).unwrap_err().to_string();
    assert_eq!(version_for::<MetadataRequest>(&versions(0, 5), METADATA, &broker()).unwrap(), 5);
    assert_eq!(text(&versions(90, 99)), "broker-1:9092 knows Metadata v90 to v99, kferry v0 to v13: kferry is too old for this broker");
    assert!(text(&Versions::default()).contains("knows Metadata in no version"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn answers_are_read_however_they_are_cut(cuts in proptest::collection::vec(1usize..40, 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (connection, mut far) = open(&ConnectOptions::default());
            let broker = async {
                let mut buf = BytesMut::new();
                let mut bytes = Vec::new();
                for _ in 0..3 {
                    let id = next(&mut far, &mut buf).await;
                    bytes.extend(metadata(id));
                }
                let mut rest = &bytes[..];
                for cut in cuts.iter().cycle() {
                    let (chunk, after) = rest.split_at((*cut).min(rest.len()));
                    far.write_all(chunk).await.unwrap();
                    tokio::task::yield_now().await;
                    rest = after;
                    if rest.is_empty() {
                        break;
                    }
                }
            };
            let (first, second, third, ()) = tokio::join!(ask(&connection), ask(&connection), ask(&connection), broker);
            assert_eq!([first, second, third].map(node_of), [1000, 1001, 1002]);
        });
    }
}

// From here on: connecting.

fn security(sasl: Option<SaslMechanism>) -> Security {
    let sasl = sasl.map(|mechanism| {
        Some(Sasl::Password { mechanism, username: "alice".to_owned(), password: Secret::Literal("alice-secret".to_owned()) })
    });
    Security { tls: None, sasl }
}

/// An answer to the request with that correlation id.
type Answer<'a> = &'a (dyn Fn(i32) -> Vec<u8> + Sync);

/// Logs in at a broker whose answers are given. Then it closes.
async fn log_in(security: &Security, answers: &[Answer<'_>]) -> Result<Connection, ConnectError> {
    let (near, mut far) = tokio::io::duplex(1 << 20);
    let (broker, options) = (broker(), ConnectOptions::default());
    let attempt = Attempt { broker: &broker, security, options: &options, deadline: Instant::now() + options.connect_timeout };
    let fake = async move {
        let mut buf = BytesMut::new();
        for answer in answers {
            let id = next(&mut far, &mut buf).await;
            far.write_all(&answer(id)).await.unwrap();
        }
        next_or_end(&mut far, &mut buf).await
    };
    let (connection, asked_more) = tokio::join!(attempt.log_in(near, "User:ANONYMOUS".to_owned()), fake);
    let connection = connection.map(|opened| Connection::start(opened.stream, opened.buf, opened.peer, attempt.options));
    assert!(connection.is_err() || !asked_more, "more was asked than answered");
    connection.map_err(|refusal| ConnectError { broker: broker.clone(), refusal })
}

/// Whether another request comes. Waits no longer than the client needs to be done.
async fn next_or_end(far: &mut DuplexStream, buf: &mut BytesMut) -> bool {
    timeout(Duration::from_millis(200), read_frame(far, 1 << 20, buf)).await.is_ok_and(|frame| frame.is_ok())
}

fn versions(id: i32) -> Vec<u8> {
    let api = |key, max| kafka_protocol::messages::api_versions_response::ApiVersion::default().with_api_key(key).with_max_version(max);
    let body = ApiVersionsResponse::default().with_api_keys(vec![api(3, 13), api(17, 1), api(18, 4), api(36, 2)]);
    answer::<ApiVersionsRequest>(id, 3, &body)
}

fn too_new(id: i32) -> Vec<u8> {
    answer::<ApiVersionsRequest>(id, 0, &ApiVersionsResponse::default().with_error_code(35))
}

fn versions_v0(id: i32) -> Vec<u8> {
    answer::<ApiVersionsRequest>(id, 0, &ApiVersionsResponse::default())
}

fn mechanisms(error_code: i16, names: &'static [&'static str]) -> impl Fn(i32) -> Vec<u8> {
    move |id| {
        let names = names.iter().map(|name| StrBytes::from_static_str(name)).collect();
        answer::<SaslHandshakeRequest>(id, 1, &SaslHandshakeResponse::default().with_error_code(error_code).with_mechanisms(names))
    }
}

fn authenticated(error_code: i16, message: Option<&'static str>) -> impl Fn(i32) -> Vec<u8> {
    move |id| {
        let message = message.map(StrBytes::from_static_str);
        let body = SaslAuthenticateResponse::default().with_error_code(error_code).with_error_message(message);
        answer::<SaslAuthenticateRequest>(id, 2, &body)
    }
}

#[tokio::test]
async fn plain_logs_in_as_its_user() {
    let connection =
        log_in(&security(Some(SaslMechanism::Plain)), &[&versions, &mechanisms(0, &["PLAIN"]), &authenticated(0, None)]).await.unwrap();
    assert_eq!(connection.principal(), "User:alice");
    assert_eq!(connection.version_for::<MetadataRequest>(METADATA).unwrap(), 13);
}

#[tokio::test]
async fn a_broker_that_is_too_old_for_our_api_versions_is_asked_again_with_version_0() {
    let connection = log_in(&security(None), &[&too_new, &versions_v0]).await.unwrap();
    assert_eq!(connection.principal(), "User:ANONYMOUS");
    let error = log_in(&security(None), &[&too_new, &too_new]).await.unwrap_err();
    assert!(error.to_string().contains("UnsupportedVersion (35)"), "{error}");
}

#[tokio::test]
async fn a_login_that_fails_says_who_how_and_the_brokers_words_but_not_the_password() {
    let plain = security(Some(SaslMechanism::Plain));
    let (on, other, none) = (mechanisms(0, &["PLAIN"]), mechanisms(33, &["SCRAM-SHA-512", "GSSAPI"]), mechanisms(34, &[]));
    let (wrong, silent) = (authenticated(58, Some("Authentication failed: Invalid username or password")), authenticated(58, None));
    let cases: [(Vec<Answer<'_>>, &str); 5] = [
        (
            vec![&versions, &on, &wrong],
            "broker-1:9092: the broker refused the user 'alice' with PLAIN: Authentication failed: Invalid username or password; \
             check sasl_username and sasl_password",
        ),
        (
            vec![&versions, &on, &silent],
            "broker-1:9092: the broker refused the user 'alice' with PLAIN: SaslAuthenticationFailed (58); \
             check sasl_username and sasl_password",
        ),
        (
            vec![&versions, &other],
            "broker-1:9092: the broker has not enabled the SASL mechanism PLAIN; set sasl_mechanism to one of those that it has: \
             SCRAM-SHA-512, GSSAPI",
        ),
        (
            vec![&versions, &none],
            "broker-1:9092: its listener does not use SASL; set security_protocol to PLAINTEXT instead of SASL_PLAINTEXT",
        ),
        (
            vec![&versions],
            "broker-1:9092: closed the connection at the SASL login, which usually means that TLS or SASL settings differ: \
             this connection used SASL_PLAINTEXT; compare security_protocol with the broker's listener; or the broker has as many connections as it \
             takes of one address, or at all (max.connections.per.ip, max.connections)",
        ),
    ];
    for (answers, text) in cases {
        let error = log_in(&plain, &answers).await.unwrap_err();
        assert_eq!(error.to_string(), text);
        assert!(!format!("{error:?}").contains("alice-secret"));
    }
}

#[tokio::test]
async fn a_broker_that_lets_us_in_without_its_scram_signature_is_not_believed() {
    let first = |id: i32| {
        // The nonce is not ours: it cannot be, this broker does not look at what it is sent.
        let body = SaslAuthenticateResponse::default().with_auth_bytes(Bytes::from_static(b"r=abc,s=c2FsdA==,i=4096"));
        answer::<SaslAuthenticateRequest>(id, 2, &body)
    };
    let scram = security(Some(SaslMechanism::ScramSha512));
    for answers in [[&authenticated(0, None) as Answer<'_>], [&first]] {
        let error = log_in(&scram, &[&versions, &mechanisms(0, &["SCRAM-SHA-512"]), answers[0]]).await.unwrap_err();
        assert!(matches!(error.refusal, Refusal::Sasl { .. }), "{error}");
    }
}

#[tokio::test]
async fn what_is_no_kafka_broker_is_told_apart() {
    let text = async |answer: &'static [u8]| log_in(&security(None), &[&|_| answer.to_vec()]).await.unwrap_err().to_string();
    assert!(text(&[0x15, 0x03, 0x03, 0, 2, 2, 50]).await.contains("answers with TLS, and this connection used PLAINTEXT"));
    for answer in [&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], b"SSH-2.0-OpenSSH\r\n", &[0, 0, 0, 4, 9, 9, 9, 9], &[0, 0, 0, 0]] {
        assert!(text(answer).await.contains("is not Kafka's"), "{answer:?}");
    }
    assert!(text(&[]).await.contains("this connection used PLAINTEXT"));
}

#[tokio::test]
async fn brokers_that_want_a_login_need_credentials() {
    let error = log_in(&Security { tls: None, sasl: Some(None) }, &[&versions]).await.unwrap_err();
    assert!(error.to_string().contains("set sasl_mechanism, sasl_username and sasl_password"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn silence_ends_at_the_deadline_with_the_step_that_hung() {
    let (near, _far) = tokio::io::duplex(1 << 20);
    let (broker, security, options) = (broker(), security(None), ConnectOptions::default());
    let begin = Instant::now();
    let attempt = Attempt { broker: &broker, security: &security, options: &options, deadline: begin + options.connect_timeout };
    let refusal = attempt.log_in(near, String::new()).await.err().unwrap();
    assert_eq!(begin.elapsed(), options.connect_timeout);
    assert_eq!(
        refusal.to_string(),
        "the first request (ApiVersions) took longer than 10s; the broker hangs, a firewall drops packets, or this is no Kafka port"
    );
    let refusal = Refusal::Deadline { step: Step::Resolve, after: Duration::from_secs(10) };
    assert_eq!(refusal.to_string(), "resolving the host name took longer than 10s; no name server answers: check this machine's DNS");
}

#[tokio::test]
async fn a_port_where_nobody_listens_and_a_host_that_does_not_exist() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let options = ConnectOptions::default();
    let at = |host: &str| HostPort { host: host.to_owned(), port };
    let error = Connection::connect(&at("127.0.0.1"), &Security::default(), &options).await.unwrap_err();
    assert!(matches!(error.refusal, Refusal::Tcp(_)), "{error}");
    let error = Connection::connect(&at("no-such-host.invalid"), &Security::default(), &options).await.unwrap_err();
    assert!(matches!(error.refusal, Refusal::Resolve(_)), "{error}");
}

#[tokio::test]
async fn our_certificate_makes_us_somebody_only_where_the_broker_asks_for_it() {
    use crate::security::tls::{client_config, server_config};
    use kferry_config::{ClientAuth, ClientTls, ServerTls};

    let authority = crate::security::tls::tests::Authority::new();
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::OrganizationName, "Ferry");
    params.distinguished_name.push(rcgen::DnType::CommonName, "kferry");
    let tls = ClientTls { identity: Some(authority.sign("kferry", &params)), ..authority.client() };
    let ask = Some(ClientAuth { ca: authority.ca.clone(), required: false });
    for (client_auth, principal) in [(ask, "User:CN=kferry,O=Ferry"), (None, "User:ANONYMOUS")] {
        let acceptor = server_config(&ServerTls { identity: authority.host("broker-1"), client_auth }).unwrap();
        let (near, far) = tokio::io::duplex(1 << 20);
        let (broker, options) = (broker(), ConnectOptions::default());
        let security = Security { tls: Some(tls.clone()), sasl: None };
        let attempt =
            Attempt { broker: &broker, security: &security, options: &options, deadline: Instant::now() + options.connect_timeout };
        let fake = async {
            let mut stream = tokio_rustls::TlsAcceptor::from(acceptor).accept(far).await.unwrap();
            let frame = read_frame(&mut stream, 1 << 20, &mut BytesMut::new()).await.unwrap();
            let id = crate::header::RequestHeader::peek(&frame).unwrap().correlation_id;
            stream.write_all(&versions(id)).await.unwrap();
            stream.flush().await.unwrap();
            stream
        };
        let (opened, _stream) = tokio::join!(attempt.tls(near, &tls, client_config(&tls).unwrap()), fake);
        let connection = opened.map(|opened| Connection::start(opened.stream, opened.buf, opened.peer, attempt.options));
        assert_eq!(connection.unwrap().principal(), principal);
    }
}

#[tokio::test]
async fn tls_to_a_plaintext_port_points_to_the_settings() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let broker = HostPort { host: "127.0.0.1".to_owned(), port: listener.local_addr().unwrap().port() };
    let authority = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let ca = folder.path().join("ca.pem");
    std::fs::write(&ca, authority.cert.pem()).unwrap();
    let security = Security { tls: Some(kferry_config::ClientTls { ca: Some(ca), ..Default::default() }), sasl: None };
    // Kafka reads the handshake as a size of 352 MB and hangs up; something else may answer in plain text.
    for (answer, says) in
        [(&b""[..], "closed the connection during the TLS handshake"), (b"HTTP/1.1 400 Bad Request\r\n\r\n", "this port is plaintext")]
    {
        let options = ConnectOptions::default();
        let fake = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.read_u8().await.unwrap();
            stream.write_all(answer).await.unwrap();
            stream.shutdown().await.unwrap();
            // Reading on avoids a reset, which could overtake the answer.
            let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
        };
        let (connection, ()) = tokio::join!(Connection::connect(&broker, &security, &options), fake);
        let text = connection.unwrap_err().to_string();
        assert!(text.contains(says) && text.starts_with("127.0.0.1:"), "{text}");
    }
}

#[test]
fn the_throttle_time_of_an_answer_with_records_is_found() {
    use kafka_protocol::messages::{FetchResponse, ProduceResponse};
    let of = |api: ApiKey, version: i16, body: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = Vec::new();
        body(&mut bytes);
        throttle_time(api, version, &bytes)
    };
    for (time, expected) in [(0, None), (-1, None), (1_234, Some(Duration::from_millis(1_234)))] {
        for version in 3..=9 {
            let response = ProduceResponse::default().with_throttle_time_ms(time);
            assert_eq!(
                of(ApiKey::Produce, version, &|bytes| response.encode(bytes, version).unwrap()),
                expected,
                "Produce v{version} {time}"
            );
        }
        for version in 4..=12 {
            let response = FetchResponse::default().with_throttle_time_ms(time);
            assert_eq!(of(ApiKey::Fetch, version, &|bytes| response.encode(bytes, version).unwrap()), expected, "Fetch v{version} {time}");
        }
    }
    assert_eq!(throttle_time(ApiKey::Metadata, 9, &[0, 0, 1, 0]), None);
    assert_eq!(throttle_time(ApiKey::Fetch, 12, &[0, 0]), None);
}
