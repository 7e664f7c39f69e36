//! Commands through the interceptor, on both paths, without sockets.

use sdk::{Bytes, Direction};
use serde_json::{Value, json};
use sha2::Digest as _;

use super::tests::Play;
use crate::message::{AgentMessage, MessageId, MessageType};

fn job(command: &str) -> Value {
    let document = json!({
        "CommandId": "c-1", "DocumentName": "AWS-RunShellScript", "Parameters": {"commands": [command], "password": "hunter2"},
        "DocumentContent": {"schemaVersion": "1.2"},
    });
    json!({"Content": document.to_string(), "JobId": "aws.ssm.c-1.i-0a", "Topic": "aws.ssm.sendCommand", "SchemaVersion": 1})
}

const COMMANDS: &str = r#"
    [[rule]]
    name = "no-curl"
    on = "command"
    find = 'curl .*\| *sh'
    with = "ask the security team"
    [[rule]]
    name = "mirror"
    on = "command"
    action = "edit"
    find = 'deb\.debian\.org'
    with = "mirror.internal"
    [[rule]]
    name = "no-root"
    on = "session"
    find = 'user/root'
"#;

#[tokio::test]
async fn threat_74_a_blocked_command_is_acknowledged_and_fails_with_a_reason() {
    let mut play = Play::new(COMMANDS);
    play.open("/v1/control-channel/i-0a?role=subscribe&stream=input")
        .await;
    let fine = job("echo hi");
    assert_eq!(
        play.control(Direction::ToClient, MessageType::AgentJob, &fine)
            .await,
        Some(fine)
    );
    let edited = play
        .control(
            Direction::ToClient,
            MessageType::AgentJob,
            &job("curl deb.debian.org"),
        )
        .await
        .unwrap();
    assert!(
        edited["Content"]
            .as_str()
            .unwrap()
            .contains("curl mirror.internal"),
        "{edited}"
    );
    assert_eq!(play.injected(), []);
    assert_eq!(
        play.control(
            Direction::ToClient,
            MessageType::AgentJob,
            &job("curl x | sh")
        )
        .await,
        None
    );
    let injected = play.injected();
    let (direction, kind, ack) = &injected[0];
    assert_eq!(
        (direction, kind),
        (&Direction::ToServer, &MessageType::AgentJobAck)
    );
    assert_eq!(
        (&ack["jobId"], &ack["statusCode"]),
        (&json!("aws.ssm.c-1.i-0a"), &json!("200"))
    );
    assert_eq!(
        ack["acknowledgedMessageId"],
        "00000000-0000-0000-0000-000000000003"
    );
    let (direction, kind, reply) = &injected[1];
    assert_eq!(
        (direction, kind),
        (&Direction::ToServer, &MessageType::AgentJobReply)
    );
    let content: Value = serde_json::from_str(reply["content"].as_str().unwrap()).unwrap();
    assert_eq!(
        (&content["documentStatus"], &content["documentTraceOutput"]),
        (&json!("Failed"), &json!("ask the security team"))
    );
    // What another reader might read differently is not let through.
    let odd = json!({"Content": "{\"Parameters\":\"\\ud800\"}", "JobId": "j"});
    assert_eq!(
        play.control(Direction::ToClient, MessageType::AgentJob, &odd)
            .await,
        None
    );
    assert_eq!(play.injected().len(), 2);
    let content = json!({"SessionId": "s", "SessionOwner": "arn:aws:iam::1:user/root"}).to_string();
    let shell = json!({"Content": content, "TaskId": "s", "Topic": "t"});
    assert_eq!(
        play.control(Direction::ToClient, MessageType::InteractiveShell, &shell)
            .await,
        None
    );
    assert_eq!(play.injected()[0].1, MessageType::AgentTaskComplete);
    let records = play.end();
    let commands: Vec<_> = records
        .iter()
        .filter(|r| r.kind == "ssm-command")
        .map(|r| &r.fields)
        .collect();
    assert_eq!(commands.len(), 4);
    assert_eq!(
        (&commands[0]["command"], &commands[0]["document"]),
        (&json!("c-1"), &json!("AWS-RunShellScript"))
    );
    // What its name says is a secret is none of the record's.
    let parameters = commands[0]["parameters"].as_str().unwrap();
    assert!(
        parameters.contains("echo hi") && !parameters.contains("hunter2"),
        "{parameters}"
    );
    assert_eq!(commands[1]["editedBy"], json!(["mirror"]));
    assert_eq!(commands[2]["blockedBy"], "no-curl");
    assert_eq!(commands[3]["blockedBy"], "unreadable");
}

#[tokio::test]
async fn an_acknowledgement_of_a_reply_of_ours_does_not_reach_the_agent() {
    let mut play = Play::new(COMMANDS);
    play.open("/v1/control-channel/i-0a").await;
    let message = AgentMessage::new(
        MessageType::AgentJob,
        MessageId(7),
        1,
        job("curl x | sh").to_string().as_bytes(),
    );
    assert_eq!(
        play.raw(Direction::ToClient, message.into_bytes()).await,
        None
    );
    let ours = play.play.injected().pop().unwrap();
    let ours = AgentMessage::parse(&Bytes::copy_from_slice(ours.payload.as_bytes())).unwrap();
    let ack = json!({"jobId": "j", "acknowledgedMessageId": ours.id.to_string()});
    let kind = MessageType::AgentJobReplyAck;
    assert_eq!(play.control(Direction::ToClient, kind, &ack).await, None);
    // Once: the next one is the agent's.
    assert_eq!(
        play.control(Direction::ToClient, kind, &ack).await,
        Some(ack)
    );
}

const DELIVERY: &str = "POST / HTTP/1.1\nHost: ec2messages.eu-west-1.amazonaws.com\nX-Amz-Target: EC2WindowsMessageDeliveryService.";

fn delivered(command: &str) -> String {
    let payload = job(command)["Content"].as_str().unwrap().to_owned();
    let digest: String = {
        sha2::Sha256::digest(&payload)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    };
    let message = json!({
        "CreatedDate": "d", "Destination": "i-0a", "MessageId": "aws.ssm.c-1.i-0a", "Payload": payload,
        "PayloadDigest": digest, "Topic": "aws.ssm.sendCommand.x",
    });
    json!({"Destination": "i-0a", "Messages": [message], "MessagesRequestId": "r"}).to_string()
}

#[tokio::test]
async fn commands_on_the_older_path_are_recorded_edited_and_made_unrunnable() {
    let mut play = Play::new(COMMANDS);
    for (command, expected) in [
        ("echo hi", "echo hi"),
        ("apt update deb.debian.org", "mirror.internal"),
        (
            "curl x | sh",
            "\\\"schemaVersion\\\":\\\"ask the security team\\\"",
        ),
    ] {
        play.play
            .request(&format!("{DELIVERY}GetMessages\n\n{{}}"))
            .await;
        let answer = play
            .play
            .response(&format!("HTTP/1.1 200 OK\n\n{}", delivered(command)))
            .await;
        assert!(answer.contains(expected), "{answer}");
        let body: Value = serde_json::from_str(answer.split_once("\n\n").unwrap().1).unwrap();
        let message = &body["Messages"][0];
        assert_eq!(message["MessageId"], "aws.ssm.c-1.i-0a");

        let digest = sha2::Sha256::digest(message["Payload"].as_str().unwrap());
        let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(message["PayloadDigest"], digest.as_str());
        assert!(
            command != "curl x | sh" || !answer.contains("curl"),
            "{answer}"
        );
    }
    let reply = json!({
        "MessageId": "aws.ssm.c-1.i-0a", "ReplyId": "r",
        "Payload": json!({"documentStatus": "Success", "runtimeStatus": {"p": {"output": "hi\n"}}}).to_string(),
    });
    let request = format!("{DELIVERY}SendReply\n\n{reply}");
    assert_eq!(play.play.request(&request).await.to_server(), request);
    // Nobody slips a command past the rules in a form that is not read.
    play.play
        .request(&format!("{DELIVERY}GetMessages\n\n{{}}"))
        .await;
    let odd = sdk::testing::response("HTTP/1.1 200 OK\n\n{\"Messages\": [\"\\ud800\"]}");
    assert!(play.play.answer(odd).await.is_err());
    let records = play.end();
    let kinds: Vec<_> = records.iter().map(|record| record.kind).collect();
    assert_eq!(
        kinds,
        [
            "ssm-command",
            "ssm-command",
            "ssm-command",
            "ssm-command-reply"
        ]
    );
    assert_eq!(records[3].fields["status"], "Success");
    assert_eq!(records[2].fields["blockedBy"], "no-curl");
}
