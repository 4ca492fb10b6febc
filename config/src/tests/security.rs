//! TLS, SASL, and passwords that nobody may see.

use insta::assert_snapshot;

use super::{edited, errors, errors_after, parse, refused, warnings};
use crate::{Sasl, SaslMechanism, Secret};

#[test]
fn tls_of_a_cluster() {
    let cluster = |keys: &str| errors_after("id = 2", &format!("id = 2\n{keys}"));
    assert_snapshot!(cluster("ssl_ca_location = \"ca.pem\"\nssl_endpoint_identification_algorithm = \"none\""), @r#"
    error: a key of TLS, but the cluster's `security_protocol` is without TLS
     --> routes.toml:7:19
      |
    7 | ssl_ca_location = "ca.pem"
      |                   ^^^^^^^^
      |
      = help: write security_protocol = "SSL", or drop the ssl_* keys

    routes.toml: 1 error
    "#);
    assert_snapshot!(cluster("security_protocol = \"SASL_PLAINTEXT\"\nssl_ca_location = \"ca.pem\""), @r#"
    error: a key of TLS, but the cluster's `security_protocol` is without TLS
     --> routes.toml:8:19
      |
    8 | ssl_ca_location = "ca.pem"
      |                   ^^^^^^^^
      |
      = help: write security_protocol = "SASL_SSL", or drop the ssl_* keys

    routes.toml: 1 error
    "#);
    assert_snapshot!(cluster("security_protocol = \"SSL\"\nssl_certificate_location = \"a.pem\""), @r#"
    error: `ssl_certificate_location` without `ssl_key_location`
     --> routes.toml:8:28
      |
    8 | ssl_certificate_location = "a.pem"
      |                            ^^^^^^^
      |
      = help: write ssl_key_location too, the PEM file of its private key

    routes.toml: 1 error
    "#);
    assert_snapshot!(cluster("security_protocol = \"SSL\"\nssl_key_location = \"a.key\""), @r#"
    error: `ssl_key_location` without `ssl_certificate_location`
     --> routes.toml:8:20
      |
    8 | ssl_key_location = "a.key"
      |                    ^^^^^^^
      |
      = help: write ssl_certificate_location too, the PEM file of its certificate

    routes.toml: 1 error
    "#);
    assert_snapshot!(cluster("security_protocol = \"tls\"\nssl_ca_location = \"ca.pem\""), @r#"
    error: unknown value "tls"
     --> routes.toml:7:21
      |
    7 | security_protocol = "tls"
      |                     ^^^^^
      |
      = help: write "PLAINTEXT", "SSL", "SASL_PLAINTEXT" or "SASL_SSL"

    routes.toml: 1 error
    "#);
    assert_snapshot!(cluster("security_protcol = \"SSL\"\nssl_ca_location = \"ca.pem\""), @r#"
    error: unknown key `security_protcol`
     --> routes.toml:7:1
      |
    7 | security_protcol = "SSL"
      | ^^^^^^^^^^^^^^^^
      |
      = help: did you mean `security_protocol`?

    routes.toml: 1 error
    "#);
}

#[test]
fn sasl_of_a_cluster() {
    let cluster = |keys: &str| errors_after("id = 2", &format!("id = 2\n{keys}"));
    assert_snapshot!(cluster("security_protocol = \"SSL\"\nsasl_mechanism = \"PLAIN\"\nsasl_username = \"a\"\nsasl_password_env = \"P\""), @r#"
    error: a key of SASL, but the cluster's `security_protocol` is without SASL
     --> routes.toml:8:18
      |
    8 | sasl_mechanism = "PLAIN"
      |                  ^^^^^^^
      |
      = help: write security_protocol = "SASL_SSL", or drop the sasl_* keys

    routes.toml: 1 error
    "#);
    assert_snapshot!(cluster("security_protocol = \"SASL_PLAINTEXT\"\nsasl_username = \"a\""), @r#"
    error: credentials without `sasl_mechanism` and `sasl_password_file`
     --> routes.toml:8:17
      |
    8 | sasl_username = "a"
      |                 ^^^
      |
      = help: write all three, or none: in bootstrap mode the clients' own credentials pass through

    routes.toml: 1 error
    "#);
    assert_snapshot!(cluster("security_protocol = \"SASL_PLAINTEXT\"\nsasl_mechanism = \"GSSAPI\""), @r#"
    error: unknown value "GSSAPI"
     --> routes.toml:8:18
      |
    8 | sasl_mechanism = "GSSAPI"
      |                  ^^^^^^^^
      |
      = help: write "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512" or "OAUTHBEARER"

    routes.toml: 1 error
    "#);
    assert_snapshot!(
        cluster(
            "security_protocol = \"SASL_PLAINTEXT\"\nsasl_mechanism = \"PLAIN\"\nsasl_username = \"a\"\nsasl_password_env = \"P\"\n\
             sasl_password_file = \"p\""
        ),
        @r#"
    error: a second password
      --> routes.toml:11:22
       |
    11 | sasl_password_file = "p"
       |                      ^^^
       |
       = help: keep one of sasl_password_file, sasl_password_env and sasl_password

    routes.toml: 1 error
    "#
    );
    let pass_through = parse(&edited("id = 2", "id = 2\nsecurity_protocol = \"SASL_PLAINTEXT\""));
    assert_eq!(pass_through.clusters[1].security.sasl, Some(None));
    assert_eq!(pass_through.warnings, []);
}

#[test]
fn tls_of_a_listener() {
    let listener = |keys: &str| errors_after("bind = \"127.0.0.1:9092\"", &format!("bind = \"127.0.0.1:9092\"\n{keys}"));
    let identity = "ssl_certificate_location = \"a.pem\"\nssl_key_location = \"a.key\"";
    assert_snapshot!(listener("security_protocol = \"SSL\""), @r#"
    error: TLS without a certificate
      --> routes.toml:12:21
       |
    12 | security_protocol = "SSL"
       |                     ^^^^^
       |
       = help: write ssl_certificate_location and ssl_key_location, PEM files of the certificate that clients see

    routes.toml: 1 error
    "#);
    assert_snapshot!(listener("security_protocol = \"SASL_SSL\""), @r#"
    error: unknown value "SASL_SSL"
      --> routes.toml:12:21
       |
    12 | security_protocol = "SASL_SSL"
       |                     ^^^^^^^^^^
       |
       = help: whether clients log in is a matter of their route: write "SSL" for TLS, "PLAINTEXT" without it

    routes.toml: 1 error
    "#);
    assert_snapshot!(listener(identity), @r#"
    error: a key of TLS, but the listener's `security_protocol` is without TLS
      --> routes.toml:12:28
       |
    12 | ssl_certificate_location = "a.pem"
       |                            ^^^^^^^
       |
       = help: write security_protocol = "SSL", or drop the ssl_* keys

    routes.toml: 1 error
    "#);
    assert_snapshot!(listener(&format!("security_protocol = \"SSL\"\n{identity}\nssl_client_auth = \"required\"")), @r#"
    error: `ssl_client_auth` without `ssl_ca_location`
      --> routes.toml:15:19
       |
    15 | ssl_client_auth = "required"
       |                   ^^^^^^^^^^
       |
       = help: write ssl_ca_location too, the PEM file of the authorities that sign the clients' certificates

    routes.toml: 1 error
    "#);
    assert_snapshot!(listener(&format!("security_protocol = \"SSL\"\n{identity}\nssl_ca_location = \"ca.pem\"")), @r#"
    error: `ssl_ca_location` has no effect: clients are not asked for certificates
      --> routes.toml:15:19
       |
    15 | ssl_ca_location = "ca.pem"
       |                   ^^^^^^^^
       |
       = help: write ssl_client_auth = "required" to ask clients for a certificate, or drop this line

    routes.toml: 1 error
    "#);
}

#[test]
fn a_token_instead_of_a_password() {
    let cluster = |keys: &str| edited("id = 2", &format!("id = 2\nsecurity_protocol = \"SASL_SSL\"\n{keys}"));
    let oauth = "sasl_mechanism = \"OAUTHBEARER\"\n";
    let config = parse(&cluster(&format!("{oauth}sasl_oauthbearer_token_file = \"/run/token\"")));
    assert_eq!(config.clusters[1].security.sasl, Some(Some(Sasl::OAuthBearer { token_file: "/run/token".into() })));
    assert_snapshot!(errors(&cluster(oauth)), @r#"
    error: OAUTHBEARER without `sasl_oauthbearer_token_file`
     --> routes.toml:8:18
      |
    8 | sasl_mechanism = "OAUTHBEARER"
      |                  ^^^^^^^^^^^^^
      |
      = help: write sasl_oauthbearer_token_file, a file that holds the token and nothing else; kferry reads it at each login

    routes.toml: 1 error
    "#);
    assert_snapshot!(errors(&cluster(&format!("{oauth}sasl_oauthbearer_token_file = \"a\"\nsasl_username = \"b\""))), @r#"
    error: a username or password with the mechanism OAUTHBEARER
      --> routes.toml:10:17
       |
    10 | sasl_username = "b"
       |                 ^^^
       |
       = help: drop it: the token says who logs in

    routes.toml: 1 error
    "#);
    assert_snapshot!(errors(&cluster("sasl_mechanism = \"PLAIN\"\nsasl_oauthbearer_token_file = \"a\"")), @r#"
    error: a token, but `sasl_mechanism` is not OAUTHBEARER
     --> routes.toml:9:31
      |
    9 | sasl_oauthbearer_token_file = "a"
      |                               ^^^
      |
      = help: write sasl_mechanism = "OAUTHBEARER", or drop this line

    routes.toml: 1 error
    "#);
    // A token itself is no path, and no message shows it.
    let shown = errors(&cluster(&format!("{oauth}sasl_oauthbearer_token = \"eyJ.secret.\"")));
    assert!(!shown.contains("secret") && shown.contains("did you mean `sasl_oauthbearer_token_file`?"), "{shown}");
}

#[test]
fn mechanisms_of_a_listener() {
    let listener = |keys: &str| edited("bind = \"127.0.0.1:9092\"", &format!("bind = \"127.0.0.1:9092\"\n{keys}"));
    let tls = "security_protocol = \"SSL\"\nssl_certificate_location = \"a.pem\"\nssl_key_location = \"a.key\"";
    let scram = [SaslMechanism::ScramSha256, SaslMechanism::ScramSha512];
    assert_eq!(parse(&listener("")).listeners[0].sasl_mechanisms, scram);
    assert_eq!(parse(&listener(tls)).listeners[0].sasl_mechanisms, SaslMechanism::ALL);
    assert_eq!(parse(&listener("sasl_enabled_mechanisms = \"SCRAM-SHA-512\"")).listeners[0].sasl_mechanisms, scram[1..]);
    let over_tls = parse(&listener(&format!("{tls}\nsasl_enabled_mechanisms = \"PLAIN\"")));
    assert!(over_tls.warnings.iter().all(|warning| !warning.message.contains("PLAIN on")), "{:?}", over_tls.warnings);
    assert_snapshot!(warnings(&listener("sasl_enabled_mechanisms = [\"SCRAM-SHA-512\", \"PLAIN\"]")), @r#"
    warning: PLAIN on a listener without TLS: whoever listens in has the password
      --> routes.toml:12:45
       |
    12 | sasl_enabled_mechanisms = ["SCRAM-SHA-512", "PLAIN"]
       |                                             ^^^^^^^
       |
       = help: write security_protocol = "SSL", or leave PLAIN out: SCRAM does not send the password

    routes.toml: 1 warning
    "#);
    assert_snapshot!(errors(&listener("sasl_enabled_mechanisms = \"OAUTHBEARER\"")), @r#"
    error: unknown value "OAUTHBEARER"
      --> routes.toml:12:27
       |
    12 | sasl_enabled_mechanisms = "OAUTHBEARER"
       |                           ^^^^^^^^^^^^^
       |
       = help: write "PLAIN", "SCRAM-SHA-256" or "SCRAM-SHA-512"

    routes.toml: 1 error
    "#);
}

#[test]
fn a_password_is_never_shown() {
    let password = "hunter2-\u{e4}";
    let with = |line: &str| {
        edited(
            "id = 2",
            &format!("id = 2\nsecurity_protocol = \"SASL_PLAINTEXT\"\nsasl_mechanism = \"PLAIN\"\nsasl_username = \"kferry\"\n{line}"),
        )
    };
    let literal = with(&format!("sasl_password = \"{password}\""));
    let Some(Some(Sasl::Password { password: read, .. })) = &parse(&literal).clusters[1].security.sasl else { panic!("no password") };
    assert_eq!(*read, Secret::Literal(password.to_owned()));
    assert!(!format!("{:?}", parse(&literal)).contains("hunter2"));
    assert_snapshot!(warnings(&literal), @r#"
    warning: a password in the file itself: whoever reads the file has it
      --> routes.toml:10:17
       |
    10 | sasl_password = "********"
       |                 ^^^^^^^^^^
       |
       = help: put it into a file and write sasl_password_file, or into the environment and write sasl_password_env

    routes.toml: 1 warning
    "#);

    for line in [
        "sasl_pasword = \"PASSWORD\"",
        "sasl_password = \"PASSWORD\" oops",
        "sasl_password = PASSWORD",
        "sasl_password = \"PASSWORD",
        "sasl_password: \"PASSWORD\"",
        "sasl_password \"PASSWORD\"",
        "sasl_password =\n\"PASSWORD\"",
        "sasl_password = \"\"\"\nfirst\\q\nPASSWORD\\q\"\"\"",
        "sasl.password = \"PASSWORD\"",
        "sasl-password = \"PASSWORD\"",
        "\"sasl_password\" = 'PASSWORD' oops # and more",
        "sasl_psswrd = \"PASSWORD\"",
        "ssl_keystore_password = \"PASSWORD\"",
        "sasl.jaas.config = \"org.apache.kafka username='a' password='PASSWORD';\"",
        "sasl_password_file = \"a\"\nsasl_password = \"PASSWORD\"",
        "sasl_password = \"PASSWORD\"\nsasl_password = \"PASSWORD\"",
        "sasl_password = [\"PASSWORD\"]",
        "x = { sasl_password = \"PASSWORD\" }",
        "x = { a = 1, sasl.password = \"PASSWORD\" }",
        "#sasl_password = \"PASSWORD\" \u{0}",
    ] {
        let text = with(&line.replace("PASSWORD", password));
        let invalid = refused(&text);
        for shown in [invalid.to_string(), format!("{invalid:?}"), invalid.render(true)] {
            assert!(!shown.contains("hunter2") && shown.contains("error"), "{line}\n{shown}");
        }
    }
    assert_snapshot!(errors(&with(&format!("sasl_pasword = \"{password}\""))), @r#"
    error: unknown key `sasl_pasword`
      --> routes.toml:10:1
       |
    10 | sasl_pasword = "********"
       | ^^^^^^^^^^^^
       |
       = help: did you mean `sasl_password`?

    routes.toml: 1 error
    "#);
    // Only the password.
    assert_snapshot!(errors(&with("sasl_password_file = \"/run/secrets/new\"\nsasl_password_env = \"NEW\"")), @r#"
    error: a second password
      --> routes.toml:11:21
       |
    11 | sasl_password_env = "NEW"
       |                     ^^^^^
       |
       = help: keep one of sasl_password_file, sasl_password_env and sasl_password

    routes.toml: 1 error
    "#);
}
