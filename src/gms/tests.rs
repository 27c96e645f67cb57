//! `inspect` from the outside: samples, odd bodies, errors, coverage, secrets; then the same promises under chance.

use std::io::Write;

use proptest::prelude::*;

use super::json::Tape;
use super::*;

const KEY: &str = "e4071047872b7820630f";
const CHAT: &str = "/genesys/2/chat/support/00001aCY6K8U003T/";
const COMETD: &str = "/genesys/cometd";
const NTF: &str = "/genesys/2/chat-ntf";
const SEED: &str = include_str!("../../tests/fixtures/samples/02_seed_refresh_200.json");
const BATCH: &str = include_str!("../../tests/fixtures/samples/s01_bayeux_longpoll_batch.json");

macro_rules! sample {
    ($name:literal) => {
        include_str!(concat!("../../tests/fixtures/samples/", $name))
    };
}

struct Case<'a> {
    path: String,
    query: Option<&'a str>,
    request: &'a [u8],
    status: u16,
    encoding: Option<&'a str>,
    complete: bool,
    request_complete: bool,
    credentials: Vec<Secret>,
    keep_typing_text: bool,
}

fn to(path: &str) -> Case<'static> {
    Case {
        path: path.to_owned(),
        query: None,
        request: b"",
        status: 200,
        encoding: None,
        complete: true,
        request_complete: true,
        credentials: Vec::new(),
        keep_typing_text: false,
    }
}

fn refresh() -> Case<'static> {
    to(&format!("{CHAT}refresh"))
}

impl Case<'_> {
    fn answered(&self, body: impl AsRef<[u8]>) -> Observation {
        let route = Route::parse("POST", &self.path, "/genesys");
        let exchange = Exchange {
            route: &route,
            query: self.query,
            request_content_type: None,
            request_body: self.request,
            request_complete: self.request_complete,
            credentials: &self.credentials,
            status: self.status,
            content_encoding: self.encoding,
            body: body.as_ref(),
            body_complete: self.complete,
        };
        let policy = Policy {
            decoded_bytes_max: 1 << 20,
            finding_bytes_max: 1 << 16,
            attributes: ["nickname", "subject", "userData[*]"].map(String::from).to_vec(),
            keep_typing_text: self.keep_typing_text,
            masks: Masks::default(),
            digest_key: [7; 32],
        };
        let seen = inspect(&exchange, &policy, &|_| Vec::new());
        for event in seen.chats.iter().flat_map(|chat| &chat.events) {
            assert!(Tape::read(&event.raw).is_ok(), "{}", event.raw);
        }
        seen
    }
}

/// Everything in an observation that could be read by a person.
fn printed(seen: &Observation) -> String {
    let raws = seen.findings.iter().map(|finding| String::from_utf8_lossy(&finding.raw).into_owned());
    format!("{seen:?}\n{}", raws.collect::<Vec<_>>().join("\n"))
}

fn events(seen: &Observation) -> Vec<i64> {
    seen.chats.iter().flat_map(|chat| &chat.events).map(|event| event.index.get()).collect()
}

fn kinds(seen: &Observation) -> Vec<FindingKind> {
    seen.findings.iter().map(|finding| finding.kind).collect()
}

#[track_caller]
fn check(case: &Case<'_>, body: impl AsRef<[u8]>, indices: &[i64], codes: &[Option<i64>], found: &[FindingKind]) {
    let seen = case.answered(body);
    let seen_codes: Vec<_> = seen.errors.iter().map(|error| error.code).collect();
    assert_eq!((&*events(&seen), &*seen_codes, &*kinds(&seen)), (indices, codes, found), "{seen:#?}");
    assert!(!printed(&seen).contains(KEY));
}

#[test]
fn every_sample_is_read_as_its_note_says() {
    use FindingKind::*;
    let open = to("/genesys/2/chat/support");
    let with = |status| Case { status, ..refresh() };
    let cut = Case { complete: false, ..refresh() };
    check(&open, sample!("01_doc_requestchat_200.json"), &[1], &[], &[]);
    check(&refresh(), SEED, &[1, 2, 3], &[], &[]);
    check(&refresh(), sample!("02b_seed_refresh_200.pyrepr.txt"), &[], &[], &[NotJson]);
    let limits = Case { request: b"operation=fileGetLimits&secureKey=0123456789abcdef", ..to(NTF) };
    check(&limits, sample!("03_filelimits_chatntf_200.json"), &[], &[], &[EventWithoutKey]);
    check(&refresh(), sample!("05_send_empty_messages_200.json"), &[], &[], &[]);
    check(&to(COMETD), sample!("07_bayeux_402_unknown_client.json"), &[], &[Some(402)], &[]);
    check(&with(400), sample!("11_error400_old_validation.json"), &[], &[None, None], &[]);
    check(&with(400), sample!("11b_error400_old_validation.verbatim.txt"), &[], &[None], &[]);
    let codes = [102, 103, 202, 203].map(Some);
    check(&with(400), sample!("12_error400_new.json"), &[], &codes, &[]);
    check(&refresh(), sample!("14_gchat_fixture_error.json"), &[], &[Some(100)], &[]);
    for (event, indices, found) in [
        (sample!("15_gchat_fixture_event_attributes.json"), &[1][..], &[][..]),
        (sample!("16_gchat_fixture_unknown_type.json"), &[], &[EventWithoutKey]),
        (sample!("25_participantleft_rc_event.json"), &[7], &[]),
    ] {
        check(&refresh(), format!("{{\"messages\":[{event}]}}"), indices, &[], found);
    }
    check(&refresh(), sample!("18_node_status.txt"), &[], &[], &[NotJson]);
    check(&to("/genesys/1/service/callback/x"), sample!("18_node_status.txt"), &[], &[], &[]);
    check(&to("/genesys/1/service/callback/x"), sample!("19_callback_dialog.json"), &[], &[], &[]);
    check(&to(COMETD), BATCH, &[1, 2], &[], &[]);
    check(&refresh(), sample!("s03_unicode_html_emoji.json"), &[4, 5], &[], &[]);
    check(&refresh(), sample!("s05_float_utctime.json"), &[4], &[], &[]);
    check(&with(404), sample!("s14_error306.json"), &[], &[Some(306)], &[]);
    check(&with(404), sample!("s15_jetty_404.html"), &[], &[None], &[]);
    check(&cut, sample!("s16_truncated.json.txt"), &[], &[], &[Truncated]);
    check(&refresh(), sample!("s17_new_party_types.json"), &[4, 5], &[], &[]);
}

#[test]
fn a_key_that_gms_refused_leads_to_no_chat() {
    let case = Case { request: b"secureKey=0123456789abcdef0123", ..refresh() };
    let keys = |body: &str| case.answered(body).chats.iter().map(|chat| chat.secure_keys.len()).sum::<usize>();
    assert_eq!(keys(r#"{"statusCode":0,"messages":[]}"#), 1);
    assert_eq!(keys(r#"{"statusCode":2,"messages":[]}"#), 0);
}

#[test]
fn what_is_wrong_with_one_answer_is_bounded_and_counted() {
    let events = "{},".repeat(1_000);
    let errors = r#"{"code":102},"#.repeat(1_000);
    let body = format!(r#"{{"statusCode":0,"messages":[{events}{{}}],"errors":[{errors}{{"code":103}}]}}"#);
    let seen = refresh().answered(body);
    assert_eq!((seen.findings.len(), seen.errors.len()), (WRONGS_MAX, WRONGS_MAX));
    assert_eq!(seen.findings.iter().map(|finding| finding.events).sum::<u64>(), 1_001);
    assert!(seen.errors[WRONGS_MAX - 1].detail.as_deref().is_some_and(|detail| detail.contains("745 more")));
}

/// A text made of matches costs no more than its length.
#[test]
fn a_text_full_of_secrets_is_read_in_time() {
    let body = format!(r#"{{"statusCode":0,"messages":[{{"index":1,"text":"{}"}}]}}"#, KEY.repeat(20_000));
    let case = Case { request: b"secureKey=e4071047872b7820630f", ..refresh() };
    let began = std::time::Instant::now();
    assert!(!printed(&case.answered(body)).contains(KEY));
    assert!(began.elapsed() < std::time::Duration::from_secs(5), "{:?}", began.elapsed());
}

#[test]
fn odd_bodies_are_read_as_far_as_they_go() {
    use FindingKind::*;
    let deep = format!("{}1{}", "[".repeat(400), "]".repeat(400));
    let message = |inside: &str| format!("{{\"messages\":[{{\"index\":1,{inside}}}]}}");
    let rows: [(String, &[i64], &[FindingKind]); 18] = [
        ("{\"messages\":null,\"statusCode\":null,\"chatId\":null,\"errors\":null}".into(), &[], &[]),
        (message("\"type\":null,\"from\":null,\"utcTime\":null,\"text\":null,\"userData\":null"), &[1], &[]),
        (message("\"type\":{\"a\":1},\"text\":[1],\"from\":\"x\",\"utcTime\":{}"), &[1], &[]),
        (message("\"text\":\"\\ud800 \\u0000\",\"utcTime\":12345678901234567890123"), &[1], &[]),
        (message(&format!("\"userData\":{deep}")), &[1], &[]),
        (message("\"index\":2"), &[2], &[]),
        ("\u{feff}{\"messages\":[{\"index\":\"3\"},{\"index\":4.0}]}".into(), &[3, 4], &[]),
        ("{\"messages\":[{\"index\":0},{\"index\":-1},{\"index\":1.5},{}]}".into(), &[], &[EventWithoutKey; 4]),
        ("{\"messages\":[{\"index\":9223372036854775808}]}".into(), &[], &[EventWithoutKey]),
        ("{\"messages\":[null,1,\"x\",[]]}".into(), &[], &[NotAnEvent; 4]),
        ("{\"messages\":{\"index\":1}}".into(), &[1], &[]),
        ("{\"messages\":\"gone\"}".into(), &[], &[NotAnEvent]),
        ("{\"messages\":[{\"index\":1}".into(), &[], &[NotJson]),
        ("{\"a\":1}".into(), &[], &[UnknownShape]),
        ("[]".into(), &[], &[UnknownShape]),
        ("5".into(), &[], &[UnknownShape]),
        ("Forbidden".into(), &[], &[NotJson]),
        (" ".into(), &[], &[]),
    ];
    for (body, indices, found) in rows {
        check(&refresh(), body, indices, &[], found);
    }
    check(&refresh(), b"{\"messages\":[{\"index\":1,\"text\":\"\xff\"}]}", &[1], &[], &[InvalidUtf8]);
    let lone = refresh().answered(message("\"text\":\"\\ud800 \\u0000\",\"utcTime\":12345678901234567890123"));
    let event = &lone.chats[0].events[0];
    assert_eq!((event.text.as_deref(), event.utc_time), (Some("\u{fffd} \u{fffd}"), None));
}

#[test]
fn encoded_bodies_are_undone() {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(SEED.as_bytes()).expect("in memory");
    let mut zlib = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
    zlib.write_all(SEED.as_bytes()).expect("in memory");
    let mut br = Vec::new();
    brotli::BrotliCompress(&mut SEED.as_bytes(), &mut br, &Default::default()).expect("in memory");
    let zstd = ::zstd::encode_all(SEED.as_bytes(), 0).expect("in memory");
    let rows = [
        ("gzip", gzip.finish().expect("in memory")),
        ("deflate", zlib.finish().expect("in memory")),
        ("br", br),
        ("zstd", zstd),
    ];
    for (encoding, body) in rows {
        check(&Case { encoding: Some(encoding), ..refresh() }, body, &[1, 2, 3], &[], &[]);
    }
    let unknown = Case { encoding: Some("x-none"), status: 503, ..refresh() };
    check(&unknown, "?", &[], &[None], &[FindingKind::Undecodable]);
}

/// Neither a card nor a key is kept, whatever the encoding of the characters is.
#[test]
fn bodies_in_utf16_are_read_and_others_are_not_kept() {
    use FindingKind::*;
    let page = format!("<p>4111 1111 1111 1111, cvv 123, secureKey={KEY}</p>");
    let answer = SEED.replacen("Hello", "4111 1111 1111 1111", 1);
    let little = |text: &str| text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>();
    let big = |text: &str| text.encode_utf16().flat_map(u16::to_be_bytes).collect::<Vec<u8>>();
    let marked = |text: &str| format!("\u{feff}{text}");
    let says_digits = |seen: &Observation| {
        let words = printed(seen);
        let raws = seen.findings.iter().map(|finding| &finding.raw[..]).chain([words.as_bytes()]);
        raws.map(|raw| raw.iter().filter(|byte| **byte != 0).map(|byte| char::from(*byte)).collect::<String>())
            .any(|said| said.contains("1111") || said.contains("cvv 123") || said.contains(KEY))
    };
    for encoded in [little, big] {
        for text in [page.clone(), marked(&page)] {
            let seen = refresh().answered(encoded(&text));
            assert_eq!(kinds(&seen), [NotJson]);
            assert!(seen.findings[0].raw.starts_with(b"<p>**** **** **** ****, cvv ***, secureKey=***"), "{seen:?}");
            let cut = Case { complete: false, ..refresh() };
            let bytes = encoded(&text);
            let seen = cut.answered(&bytes[..bytes.len() - 61]);
            assert_eq!((kinds(&seen), says_digits(&seen)), (vec![Truncated], false), "{seen:?}");
            let failed = Case { status: 500, ..refresh() }.answered(&bytes);
            assert!(failed.errors[0].detail.as_deref().is_some_and(|detail| detail.contains("cvv ***")), "{failed:?}");
        }
        for text in [answer.clone(), marked(&answer)] {
            check(&refresh(), encoded(&text), &[1, 2, 3], &[], &[]);
        }
    }
    let wide: Vec<u8> = page.chars().flat_map(|char| u32::from(char).to_le_bytes()).collect();
    let late = [b"p", &*little(&page)].concat();
    let stray = format!("{page}\0").into_bytes();
    for body in [wide, late, stray] {
        let seen = refresh().answered(&body);
        let finding = &seen.findings[0];
        assert_eq!((kinds(&seen), finding.raw.len(), finding.raw_length), (vec![Undecodable], 0, body.len()));
        assert!(!says_digits(&Case { complete: false, ..refresh() }.answered(&body)));
        assert!(!says_digits(&Case { status: 500, ..refresh() }.answered(&body)));
    }
}

#[test]
fn coverage_is_what_was_asked_for_and_answered() {
    let answer =
        |status: i64| format!("{{\"statusCode\":{status},\"nextPosition\":\"9\",\"messages\":[{{\"index\":7}}]}}");
    let rest = |from, next| Coverage::Rest { from, next };
    let rows: [(&str, &str, String, Coverage); 11] = [
        ("refresh", "", answer(0), rest(1, 9)),
        ("refresh", "transcriptPosition=4", answer(0), rest(4, 9)),
        ("refresh", "transcriptPosition=0", answer(0), Coverage::Nothing),
        ("refresh", "transcriptPosition=x", answer(0), Coverage::Nothing),
        ("refresh", "transcriptPosition=4", answer(1), Coverage::Nothing),
        ("refresh", "transcriptPosition=4", answer(2), Coverage::Nothing),
        ("refresh", "", "{\"statusCode\":0,\"messages\":[{\"index\":7}]}".into(), rest(1, 8)),
        ("refresh", "", "{\"statusCode\":0}".into(), Coverage::Nothing),
        ("refresh", "", "{\"messages\":[],\"nextPosition\":9}".into(), Coverage::Nothing),
        ("send", "", answer(0), Coverage::Nothing),
        ("send", "{\"transcriptPosition\":2}", answer(0), rest(2, 9)),
    ];
    for (operation, request, body, expected) in rows {
        let case = Case { request: request.as_bytes(), ..to(&format!("{CHAT}{operation}")) };
        assert_eq!(case.answered(&body).chats[0].coverage, expected, "{operation} {request} {body}");
    }
    let opened = to("/genesys/2/chat/support").answered(SEED);
    assert_eq!(opened.chats[0].coverage, rest(1, 4));
    let poll = Case { request: br#"[{"channel":"/meta/connect","clientId":"c1"}]"#, ..to(COMETD) }.answered(BATCH);
    assert!(matches!(poll.chats[0].coverage, Coverage::Session { lowest: Some(1), next: 3, .. }));
    let ends = [(0, Some(Ended::Normally)), (1, None), (2, Some(Ended::WithError))];
    for (status, ended) in ends {
        let seen = refresh().answered(format!("{{\"statusCode\":{status},\"chatEnded\":true}}"));
        assert_eq!((seen.chats[0].ended, seen.errors.len()), (ended, usize::from(status > 0)));
    }
}

#[test]
fn a_chat_is_named_by_body_path_or_key() {
    let of_body = refresh().answered("{\"chatId\":\"OTHER\"}");
    assert!(of_body.chat_id_mismatch && of_body.findings.is_empty());
    assert_eq!(of_body.chats[0].key, ChatKey::Id(ChatId::parse("OTHER").expect("valid")));
    let of_path = refresh().answered("{\"statusCode\":0}");
    assert_eq!(of_path.chats[0].key, ChatKey::Id(ChatId::parse("00001aCY6K8U003T").expect("valid")));
    let ntf = Case { request: b"operation=fileDelete&secureKey=0123456789abcdef", ..to(NTF) };
    let by_key = ntf.answered("{\"statusCode\":0}");
    let secret = Secret::new("0123456789abcdef").expect("not empty");
    assert_eq!(by_key.chats[0].key, ChatKey::SecureKey(scrub::key_digest(&[7; 32], &secret)));
    check(&to(NTF), "{\"messages\":[{\"index\":1}]}", &[], &[], &[FindingKind::EventsWithoutChat]);
}

#[test]
fn errors_say_what_they_mean() {
    use ErrorClass::*;
    type Row<'a> = (&'a str, u16, &'a str, Option<i64>, ErrorClass, Option<&'a str>);
    let rows: [Row<'_>; 9] = [
        (
            CHAT,
            200,
            r#"{"statusCode":2,"errors":[{"code":"249","advice":"x referenceId[10016629]"}]}"#,
            Some(249),
            MediaServer,
            Some("10016629"),
        ),
        (CHAT, 200, r#"{"errors":[{"code":240,"advice":"ReferenceID: 4711"}]}"#, Some(240), Unexpected, Some("4711")),
        (CHAT, 200, r#"{"errors":{"code":241}}"#, Some(241), NotFound, None),
        (CHAT, 404, r#"{"errors":[{"code":306}]}"#, Some(306), Invalid, None),
        (CHAT, 200, r#"{"errors":[{"code":"odd"}]}"#, None, Unknown, None),
        (CHAT, 503, "<html>down</html>", None, Transport, None),
        (CHAT, 500, r#"{"messages":[]}"#, None, Unknown, None),
        (
            COMETD,
            200,
            r#"{"channel":"/meta/connect","successful":false,"error":"402::Unknown client"}"#,
            Some(402),
            Transport,
            None,
        ),
        (
            COMETD,
            200,
            r#"[{"channel":"/service/chatV2/s","data":{"errors":[{"code":153}]}}]"#,
            Some(153),
            Missing,
            None,
        ),
    ];
    for (path, status, body, code, class, reference) in rows {
        let seen = Case { status, ..to(path) }.answered(body);
        let [error] = &seen.errors[..] else { panic!("one error: {body} {seen:#?}") };
        assert_eq!((error.code, error.class, error.reference_id.as_deref()), (code, class, reference), "{body}");
        assert_eq!((error.http_status, error.meaning.is_some()), (Some(status), code.is_some()), "{body}");
    }
}

#[test]
fn cometd_answers_hold_many_things() {
    let delivery = |chat: &str| {
        format!(r#"{{"channel":"/service/chatV2/s","data":{{"chatId":"{chat}","messages":[{{"index":1}}]}}}}"#)
    };
    let (a, b) = (delivery("A"), delivery("B"));
    check(&to(COMETD), &a, &[1], &[], &[]);
    check(&to(COMETD), format!("[{a},null,{b}]"), &[1, 1], &[], &[FindingKind::UnknownShape]);
    check(&to(COMETD), r#"[{"channel":"/service/chatV2/s","data":"gone"}]"#, &[], &[], &[FindingKind::UnknownShape]);
    let other = to(COMETD).answered(format!(r#"[{{"channel":"/_genesys","data":{{}}}},{a}]"#));
    assert_eq!((other.other_deliveries, other.chats.len()), (1, 1));
    let gone = Case { request: br#"[{"channel":"/meta/disconnect"}]"#, ..to(COMETD) };
    assert!(gone.answered("[]").session_ended);
    let poll = || Case { request: br#"[{"channel":"/meta/connect","clientId":"c1"}]"#, ..to(COMETD) };
    assert_eq!(poll().answered(&a).missed, None);
    assert!(Case { complete: false, ..poll() }.answered(&a).missed.is_some());
    assert!(Case { encoding: Some("br"), ..poll() }.answered("no brotli").missed.is_some());
    let inner = format!(r#"{{"chatId":"A","secureKey":"{KEY}","messages":[{{"index":1,"text":"{KEY}"}}]}}"#);
    let nested = format!(r#"[{{"channel":"/service/chatV2/s","data":"{}"}}]"#, inner.replace('"', "\\\""));
    check(&to(COMETD), nested, &[1], &[], &[]);
}

#[test]
fn a_websocket_says_the_same_as_requests_and_answers() {
    let policy = Policy {
        decoded_bytes_max: 1 << 20,
        finding_bytes_max: 1 << 16,
        attributes: vec!["nickname".into()],
        keep_typing_text: false,
        masks: Masks::default(),
        digest_key: [7; 32],
    };
    let mut dialogue = Dialogue::new(Vec::new());
    let opened = dialogue.said(
        br#"{"channel":"/service/chatV2/s","id":"1","clientId":"c1","data":{"operation":"requestChat","nickname":"Anna"}}"#,
        &policy,
    );
    let opened = opened.opened.expect("a chat was asked for");
    assert_eq!(opened.attributes[0].value, "Anna");
    let said = format!(
        r#"[{{"channel":"/service/chatV2/s","id":"2","clientId":"c1","data":{{"operation":"sendMessage","secureKey":"{KEY}"}}}},
            {{"channel":"/meta/connect","id":"3","clientId":"c1"}}]"#
    );
    assert!(dialogue.said(said.as_bytes(), &policy).chats.is_empty());
    let told = |dialogue: &Dialogue, text: &str| dialogue.told(text.as_bytes(), &policy, &|_| Vec::new());
    let delivered = format!(
        r#"[{{"channel":"/service/chatV2/s","data":{{"statusCode":0,"chatId":"A","nextPosition":3,
            "messages":[{{"index":2,"text":"{KEY}"}}]}}}},
            {{"channel":"/service/chatV2/s","id":"2","successful":false,"error":"402::Unknown client"}}]"#
    );
    let seen = told(&dialogue, &delivered);
    let Coverage::Session { session, lowest: Some(2), next: 3 } = seen.chats[0].coverage else { panic!("{seen:?}") };
    assert_eq!(session, opened.session);
    assert_eq!(seen.chats[0].events[0].text.as_deref(), Some("********************"));
    let [error] = &seen.errors[..] else { panic!("{seen:?}") };
    assert_eq!((error.code, error.http_status, error.operation.as_deref()), (Some(402), None, Some("sendMessage")));
    let finding = told(&dialogue, "no JSON").findings.remove(0);
    assert_eq!(dialogue.missed(finding, &policy).missed, Some(session));
    assert!(!dialogue.is_leaving());
    dialogue.said(br#"{"channel":"/service/chatV2/s","clientId":"c1","data":{"operation":"disconnect"}}"#, &policy);
    assert!(dialogue.is_leaving());
    assert!(dialogue.said(br#"[{"channel":"/meta/disconnect","clientId":"c1"}]"#, &policy).session_ended);
    let seen = told(&dialogue, r#"[{"channel":"/service/chatV2/s","data":{"errors":[{"code":153}]}}]"#);
    assert_eq!(seen.errors[0].operation, None, "the session is over");
}

#[test]
fn what_a_websocket_remembers_is_bounded() {
    let (mut request, dialogue) = (Request::default(), Dialogue::new(Vec::new()));
    for n in 0..100 {
        let message =
            |channel: &str| format!(r#"{{"channel":"{channel}","id":{n},"clientId":"c","secureKey":"{n}{KEY}"}}"#);
        let said = format!("[{},{},{}]", message("/c"), message("/meta/connect"), message(&"c".repeat(300)));
        let exchange = Exchange { request_body: said.as_bytes(), ..dialogue.exchange(b"") };
        request.remember(Request::read(&exchange).into_owned());
    }
    let connects = request.earlier.iter().filter(|message| message.channel == "/meta/connect");
    let last = request.earlier.last().and_then(|message| message.id.as_deref());
    assert_eq!((request.earlier.len(), connects.count(), last), (16, 1, Some("99")));
    assert_eq!(request.secrets.len(), 8);
}

#[test]
fn what_was_typed_and_not_sent_is_blanked() {
    let body = r#"{"messages":[{"index":1,"type":"TypingStarted","text":"unsent"},{"index":2,"type":"Message","text":"sent"}]}"#;
    let texts = |case: Case<'_>| case.answered(body).chats[0].events.iter().map(|e| e.text.clone()).collect::<Vec<_>>();
    assert_eq!(texts(refresh()), [Some("******".into()), Some("sent".into())]);
    assert_eq!(texts(Case { keep_typing_text: true, ..refresh() })[0].as_deref(), Some("unsent"));
}

#[test]
fn files_are_no_transcripts() {
    let file = to(&format!("{CHAT}file/f1/download"));
    check(&file, SEED, &[], &[], &[]);
    check(&file, b"\xff\xfe binary", &[], &[], &[]);
    check(&file, "{\"errors\":[{\"code\":241}]}", &[], &[Some(241)], &[]);
}

#[test]
fn by_its_first_bytes_a_file_is_told_from_an_answer() {
    let gzip = |content: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(content).and_then(|()| encoder.flush()).expect("in memory");
        encoder.get_ref().clone()
    };
    for (start, encoding, could_be) in [
        (b"{\"a\"".to_vec(), None, true),
        (b" \r\n".to_vec(), Some("identity"), true),
        (b"\x89PNG".to_vec(), None, false),
        (gzip(b"{\"a\""), Some("gzip"), true),
        (gzip(&vec![b' '; 5_000]), Some("gzip"), true),
        (gzip(b"\x89PNG"), Some("gzip"), false),
        (gzip(b"{\"a\""), None, false),                        // an archive
        (gzip(b"\x89PNG")[..10].to_vec(), Some("gzip"), true), // nothing comes out yet
        (b"\x89PNG".to_vec(), Some("x-none"), true),
    ] {
        assert_eq!(could_be_answer(&start, encoding), could_be, "{start:?} {encoding:?}");
    }
}

#[test]
fn attributes_are_those_admitted_and_answered() {
    let form = sample!("24_requestchat_form.txt");
    let seen = Case { request: form.as_bytes(), ..to("/genesys/2/chat/s/") }.answered(SEED);
    let names: Vec<&str> = seen.chats[0].attributes.iter().map(|attribute| &*attribute.name).collect();
    assert!(["nickname", "subject", "userData[_genesys_OS]", "alias", "userId"].iter().all(|n| names.contains(n)));
    assert!(!names.contains(&"emailAddress") && !names.contains(&"secureKey"));
}

#[test]
fn no_secret_is_in_what_is_seen() {
    let quoting = format!(
        "{{\"statusCode\":0,\"chatId\":\"C\",\"alias\":\"{KEY}\",\"messages\":[{{\"index\":1,\"text\":\"my {KEY}!\",\"{KEY}\":1}},{{\"text\":\"{KEY}\"}}],\"errors\":[{{\"code\":\"{KEY}\",\"advice\":\"{KEY}\"}}]}}"
    );
    let query = format!("secureKey={KEY}");
    let form = format!("secureKey={KEY}&nickname=I+am+{KEY}&userData[x]={KEY}");
    let json = format!("{{\"a\":{{\"secureKey\":\"{KEY}\"}},\"nickname\":\"{KEY}\"}}");
    let multipart = format!("--X\r\nContent-Disposition: form-data; name=\"secureKey\"\r\n\r\n{KEY}\r\n--X--\r\n");
    let operation = format!("operation={KEY}&secureKey={KEY}");
    let bodies =
        [quoting.clone(), quoting.replace("\"alias\"", "\"secureKey\""), format!("oops {KEY}"), format!("[\"{KEY}\"]")];
    for path in ["/genesys/2/chat/s", &format!("{CHAT}updateData"), NTF, COMETD, "/genesys/2/email/s"] {
        for request in [&*form, &json, &multipart, &operation] {
            for (body, status) in bodies.iter().flat_map(|body| [(body, 200), (body, 500)]) {
                let case = Case { request: request.as_bytes(), status, ..to(path) };
                assert!(!printed(&case.answered(body)).contains(KEY), "{path} {request} {body}");
            }
        }
        let by_query = Case { query: Some(&query), ..to(path) };
        let by_field = Case { credentials: Secret::new(KEY).into_iter().collect(), ..to(path) };
        for body in &bodies {
            assert!(!printed(&by_query.answered(body)).contains(KEY), "{path} {body}");
            assert!(!printed(&by_field.answered(body)).contains(KEY), "{path} {body}");
        }
    }
    let invalid = b"{\"messages\":[],\"apiKey\":\"e4071047872b7820630f\",\"x\":\"\xff e4071047872b7820630f\"}";
    check(&refresh(), invalid, &[], &[], &[FindingKind::InvalidUtf8]);
}

const PATHS: [&str; 7] =
    ["/genesys/2/chat/s", CHAT, NTF, COMETD, "/genesys/2/email/s", "/genesys/2/openmedia/s", "/genesys/other"];
const SAMPLES: [&str; 5] = [
    SEED,
    BATCH,
    sample!("12_error400_new.json"),
    sample!("s03_unicode_html_emoji.json"),
    sample!("02b_seed_refresh_200.pyrepr.txt"),
];

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(request in any::<Vec<u8>>(), body in any::<Vec<u8>>(), status in 100_u16..600) {
        for path in PATHS {
            Case { request: &request, status, ..to(path) }.answered(&body);
        }
    }

    #[test]
    fn mutated_samples_never_panic(
        of in 0..SAMPLES.len(),
        with in 0..SAMPLES.len(),
        flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in any::<prop::sample::Index>(),
        splice in any::<bool>(),
        complete in any::<bool>(),
    ) {
        let mut body = SAMPLES[of].as_bytes().to_vec();
        for (at, byte) in flips {
            let at = at.index(body.len());
            body[at] ^= byte;
        }
        if splice {
            let at = cut.index(body.len());
            body.splice(at..at, SAMPLES[with].bytes());
        } else if cut.index(4) == 0 {
            body.truncate(cut.index(body.len()));
        }
        for path in PATHS {
            Case { request: &body, complete, ..to(path) }.answered(&body);
        }
    }

    #[test]
    fn no_secret_survives(secret in "[0-9a-f]{7,24}[a-d]", places in proptest::collection::vec(0..6_u8, 1..6), path in 0..PATHS.len()) {
        let member = |place: &u8| match place {
            0 => format!("\"text\":\"a {secret} b\""),
            1 => format!("\"{secret}\":1"),
            2 => format!("\"from\":{{\"nickname\":\"{secret}\"}}"),
            3 => format!("\"userData\":{{\"k\":[\"{secret}\"]}}"),
            4 => format!("\"index\":\"{secret}\""),
            _ => format!("\"type\":\"{secret}\""),
        };
        let members: Vec<String> = places.iter().map(member).collect();
        let event = members.join(",");
        let answer = format!("{{\"secureKey\":\"{secret}\",\"chatId\":\"C\",\"messages\":[{{\"index\":1,{event}}}],\"errors\":[{{{event}}}],{event}}}");
        let delivery = format!("[{{\"channel\":\"/service/chatV2/s\",\"data\":{answer}}}]");
        for body in [&answer, &delivery] {
            prop_assert!(!printed(&to(PATHS[path]).answered(body)).contains(&secret));
        }
    }
}

#[test]
fn a_secret_in_a_chat_s_place_is_no_chat() {
    let refused = br#"{"statusCode":2,"errors":[{"code":249,"advice":"no chat e4071047872b7820630f"}]}"#;
    let path = format!("/genesys/2/chat/support/{KEY}/refresh");
    let case = Case { request: b"secureKey=e4071047872b7820630f", ..to(&path) };
    let error = case.answered(refused).errors.remove(0);
    assert_eq!((error.chat_id, error.advice.as_deref()), (None, Some("no chat ********************")));
    // Elsewhere the path names the chat.
    let error = to(&path).answered(refused).errors.remove(0);
    assert_eq!(error.chat_id.as_ref().map(ChatId::as_str), Some(KEY));
}

/// A number that the cap of the request cut is in no attribute, and a cut secret in no finding.
#[test]
fn what_the_cap_of_a_request_cut_is_kept_nowhere() {
    let opened = r#"{"statusCode":0,"chatId":"C1","secureKey":"0123456789abcdef0123","userId":"1"}"#;
    for digits in 1..16 {
        let form = format!("subject=x&nickname={}", &"4539178822757973"[..digits]);
        let case = Case { request: form.as_bytes(), request_complete: false, ..to("/genesys/2/chat/support") };
        let seen = case.answered(opened);
        let of_request = seen.chats[0].attributes.iter().filter(|it| it.source == AttributeSource::Request);
        assert_eq!(of_request.map(|it| &*it.name).collect::<Vec<_>>(), ["subject"], "{digits}");
    }
    for known in 0..KEY.len() {
        let form = format!("subject=x&secureKey={}", &KEY[..known]);
        let case = Case { request: form.as_bytes(), request_complete: false, ..refresh() };
        let seen = case.answered(format!("{{bad {KEY}"));
        assert_eq!(seen.findings[0].raw, format!("{{bad {}", "*".repeat(KEY.len())).as_bytes(), "{known}");
    }
}

/// What is longer than an attribute may be is masked before it is cut.
#[test]
fn an_attribute_is_masked_before_it_is_cut() {
    let opened = r#"{"statusCode":0,"chatId":"C1","userId":"1"}"#;
    for digits in 1..16 {
        let form = format!("nickname={}4539178822757973", "x".repeat(ATTRIBUTE_BYTES_MAX - digits));
        let case = Case { request: form.as_bytes(), ..to("/genesys/2/chat/support") };
        let seen = case.answered(opened);
        let nickname = seen.chats[0].attributes.iter().find(|it| it.name == "nickname").expect("it was sent");
        assert!(nickname.value.ends_with(&format!("x{}", "*".repeat(digits))), "{digits}");
        assert_eq!((nickname.value.len(), nickname.maskings.len()), (ATTRIBUTE_BYTES_MAX, 1));
    }
}
