#!/bin/sh
# The AWS CLI refreshes the instances of an Auto Scaling group, rolls one refresh back and cancels another.
set -eu
# shellcheck source=tests/clients/wait.sh
. "$(dirname "$0")/wait.sh"

scaling() {
    verb=$1
    shift
    aws autoscaling "$verb" --auto-scaling-group-name workers "$@" --output text
}
states() {
    aws autoscaling describe-auto-scaling-groups --auto-scaling-group-names workers \
        --query 'AutoScalingGroups[0].Instances[].[LifecycleState,LaunchTemplate.Version]' --output text
}
newest() {
    scaling describe-instance-refreshes --query 'InstanceRefreshes[0].[Status,PercentageComplete]' |
        tr '\t' ' ' | head -n 1
}
refresh() { # refresh <version> <preferences>
    scaling start-instance-refresh --query InstanceRefreshId --preferences "$2" \
        --desired-configuration "LaunchTemplate={LaunchTemplateName=workers,Version='$1'}"
}

image=$(aws ssm get-parameter --name /aws/service/debian/release/12/latest/amd64 --query Parameter.Value --output text)
aws ec2 create-launch-template --launch-template-name workers \
    --launch-template-data "ImageId=$image,InstanceType=t3.micro" --query LaunchTemplate.LaunchTemplateId --output text
aws ec2 create-launch-template-version --launch-template-name workers --source-version 1 \
    --launch-template-data InstanceType=t3.small --query LaunchTemplateVersion.VersionNumber --output text
zone=$(aws ec2 describe-availability-zones --query 'AvailabilityZones[0].ZoneName' --output text)
scaling create-auto-scaling-group --min-size 1 --max-size 2 --availability-zones "$zone" \
    --launch-template 'LaunchTemplateName=workers,Version=1'
trap 'scaling delete-auto-scaling-group --force-delete' EXIT
tab=$(printf '\t')
wait_for "the group" "InService${tab}1" states

hold='MinHealthyPercentage=100,MaxHealthyPercentage=200,InstanceWarmup=0,BakeTime=3600'
refresh 2 "$hold"
wait_for "the refresh" "Baking 100" newest
scaling rollback-instance-refresh --query InstanceRefreshId
wait_for "the rollback" "RollbackSuccessful 0" newest
wait_for "the group after the rollback" "InService${tab}1" states

refresh 2 "$hold"
wait_for "the second refresh" "Baking 100" newest
scaling cancel-instance-refresh --query InstanceRefreshId
wait_for "the cancellation" "Cancelled 100" newest

refresh 2 'SkipMatching=true'
wait_for "the third refresh" "Successful 100" newest
wait_for "the group after it" "InService${tab}2" states
version=$(aws autoscaling describe-auto-scaling-groups --auto-scaling-group-names workers \
    --query 'AutoScalingGroups[0].LaunchTemplate.Version' --output text)
[ "$version" = 2 ] || { echo "the group launches version $version" >&2; exit 1; }
