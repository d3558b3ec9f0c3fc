output "role_arn" {
  description = "For `cdcpipe kind up --role-arn`, and the annotation eks.amazonaws.com/role-arn of the service account."
  value       = aws_iam_role.sink.arn
}

output "bucket" {
  description = "For `cdcpipe kind up --bucket`."
  value       = aws_s3_bucket.archive.id
}
