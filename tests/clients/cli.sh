#!/bin/sh
# The AWS CLI lists, launches, runs a command on and terminates a machine of the cloud that the environment names.
set -eu
# shellcheck source=tests/clients/wait.sh
. "$(dirname "$0")/wait.sh"

state() { aws ec2 describe-instances --instance-ids "$instance" --query 'Reservations[].Instances[].State.Name' --output text; }
ping() {
    aws ssm describe-instance-information --filters "Key=InstanceIds,Values=$instance" \
        --query 'InstanceInformationList[].PingStatus' --output text
}
status() {
    aws ssm get-command-invocation --command-id "$command" --instance-id "$instance" --query Status --output text
}

aws sts get-caller-identity --query Account --output text
# With a profile that takes a role.
printf '%s\n' '[profile deploy]' 'role_arn = arn:aws:iam::000000000000:role/deploy' 'credential_source = Environment' \
    'role_session_name = cli' >"$HOME/roles"
caller=$(AWS_CONFIG_FILE=$HOME/roles aws --profile deploy sts get-caller-identity --query Arn --output text)
[ "$caller" = arn:aws:sts::000000000000:assumed-role/deploy/cli ] || { echo "the role is $caller" >&2; exit 1; }
image=$(aws ssm get-parameter --name /aws/service/debian/release/12/latest/amd64 --query Parameter.Value --output text)
aws ec2 describe-images --image-ids "$image" --query 'Images[].[ImageId,Name,State]' --output text

instance=$(aws ec2 run-instances --image-id "$image" --instance-type t3.micro --metadata-options HttpTokens=required \
    --tag-specifications 'ResourceType=instance,Tags=[{Key=Name,Value=cli}]' \
    --query 'Instances[].InstanceId' --output text)
trap 'aws ec2 terminate-instances --instance-ids "$instance" >/dev/null' EXIT
wait_for "the state of $instance" running state
wait_for "the agent of $instance" Online ping

command=$(aws ssm send-command --instance-ids "$instance" --document-name AWS-RunShellScript \
    --parameters '{"commands": ["printf \"%s\\n\" $((6 * 7))"]}' --query Command.CommandId --output text)
wait_for "the command $command" Success status
output=$(aws ssm get-command-invocation --command-id "$command" --instance-id "$instance" \
    --query StandardOutputContent --output text)
[ "$(echo "$output" | head -n 1)" = 42 ] || { echo "the command printed: $output" >&2; exit 1; }

trap - EXIT
aws ec2 terminate-instances --instance-ids "$instance" --query 'TerminatingInstances[].CurrentState.Name' --output text
wait_for "the state of $instance" terminated state
