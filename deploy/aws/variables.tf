variable "bucket" {
  description = "Name of the archive's bucket. It is made by this module."
  type        = string
}

variable "prefix" {
  description = "Folder of the bucket below which everything lies; the role can touch nothing else."
  type        = string
  default     = "warehouse"

  validation {
    condition     = can(regex("^[a-z0-9][a-z0-9/_-]*[a-z0-9]$", var.prefix))
    error_message = "The prefix has neither a leading nor a trailing slash, and no wildcard."
  }
}

variable "issuer_url" {
  description = "The cluster's issuer of service account tokens: https://..., reachable by AWS."
  type        = string

  validation {
    condition     = startswith(var.issuer_url, "https://")
    error_message = "AWS asks the issuer for its keys over HTTPS."
  }
}

variable "oidc_provider_arn" {
  description = "The IAM OIDC provider of that issuer, where the account has one already (EKS: usually). Null makes one."
  type        = string
  default     = null
}

variable "namespace" {
  description = "Namespace of Connect's service account."
  type        = string
  default     = "cdcpipe"
}

variable "service_account" {
  description = "Connect's service account: the only one that may assume the role."
  type        = string
  default     = "connect"
}

variable "kms_key_arn" {
  description = "A KMS key for the objects. Null: S3's own keys (AES256)."
  type        = string
  default     = null
}

variable "noncurrent_days" {
  description = "How long versions that were overwritten or deleted are kept."
  type        = number
  default     = 90
}

variable "tags" {
  description = "Tags of everything."
  type        = map(string)
  default     = {}
}
