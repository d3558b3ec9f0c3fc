# The archive's bucket, and one role that Connect assumes by its pod's own token (AssumeRoleWithWebIdentity): no access
# key exists that could leak. What the role may do and what the bucket refuses are in policies/, as templates that the
# tests try against an S3 server with an STS.

locals {
  issuer       = trimprefix(var.issuer_url, "https://")
  provider_arn = coalesce(var.oidc_provider_arn, one(aws_iam_openid_connect_provider.cluster[*].arn))
  facts = {
    bucket          = var.bucket
    prefix          = var.prefix
    provider_arn    = local.provider_arn
    issuer          = local.issuer
    subject         = "system:serviceaccount:${var.namespace}:${var.service_account}"
    audience        = "sts.amazonaws.com"
    encryption_name = var.kms_key_arn == null ? "AES256" : "aws:kms"
  }
}

resource "aws_iam_openid_connect_provider" "cluster" {
  count          = var.oidc_provider_arn == null ? 1 : 0
  url            = var.issuer_url
  client_id_list = ["sts.amazonaws.com"]
  tags           = var.tags
}

resource "aws_iam_role" "sink" {
  name                 = "cdcpipe-sink-${var.bucket}"
  description          = "Assumed by Connect of cdcpipe to write its archive"
  assume_role_policy   = templatefile("${path.module}/policies/trust.json", local.facts)
  max_session_duration = 3600
  tags                 = var.tags
}

resource "aws_iam_role_policy" "sink" {
  name   = "archive"
  role   = aws_iam_role.sink.id
  policy = templatefile("${path.module}/policies/role.json", local.facts)
}

resource "aws_iam_role_policy" "key" {
  count = var.kms_key_arn == null ? 0 : 1
  name  = "key"
  role  = aws_iam_role.sink.id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Sid      = "UseTheKeyForThisBucket"
      Effect   = "Allow"
      Action   = ["kms:Decrypt", "kms:GenerateDataKey"]
      Resource = [var.kms_key_arn]
      Condition = {
        StringLike = { "kms:EncryptionContext:aws:s3:arn" = "arn:aws:s3:::${var.bucket}*" }
      }
    }]
  })
}

resource "aws_s3_bucket" "archive" {
  bucket = var.bucket
  tags   = var.tags

  lifecycle {
    prevent_destroy = true
  }
}

resource "aws_s3_bucket_public_access_block" "archive" {
  bucket                  = aws_s3_bucket.archive.id
  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

resource "aws_s3_bucket_ownership_controls" "archive" {
  bucket = aws_s3_bucket.archive.id
  rule {
    object_ownership = "BucketOwnerEnforced"
  }
}

resource "aws_s3_bucket_versioning" "archive" {
  bucket = aws_s3_bucket.archive.id
  versioning_configuration {
    status = "Enabled"
  }
}

resource "aws_s3_bucket_server_side_encryption_configuration" "archive" {
  bucket = aws_s3_bucket.archive.id
  rule {
    apply_server_side_encryption_by_default {
      sse_algorithm     = local.facts.encryption_name
      kms_master_key_id = var.kms_key_arn
    }
    bucket_key_enabled = var.kms_key_arn != null
  }
}

resource "aws_s3_bucket_policy" "archive" {
  bucket     = aws_s3_bucket.archive.id
  policy     = templatefile("${path.module}/policies/bucket.json", local.facts)
  depends_on = [aws_s3_bucket_public_access_block.archive]
}

# Current objects never expire: the table's metadata names them. Only what nobody names any more goes.
resource "aws_s3_bucket_lifecycle_configuration" "archive" {
  bucket     = aws_s3_bucket.archive.id
  depends_on = [aws_s3_bucket_versioning.archive]

  rule {
    id     = "uploads-that-were-given-up"
    status = "Enabled"
    filter {}
    abort_incomplete_multipart_upload {
      days_after_initiation = 3
    }
  }

  rule {
    id     = "versions-that-were-replaced"
    status = "Enabled"
    filter {}
    noncurrent_version_expiration {
      noncurrent_days = var.noncurrent_days
    }
    expiration {
      expired_object_delete_marker = true
    }
  }

  rule {
    id     = "data-that-is-seldom-read"
    status = "Enabled"
    filter {
      prefix = "${var.prefix}/"
    }
    transition {
      days          = 30
      storage_class = "INTELLIGENT_TIERING"
    }
  }
}
