variable "project_id" {
  description = "Project that rounds run in: data, workers, Composer, TPUs."
  type        = string
  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{4,28}[a-z0-9]$", var.project_id))
    error_message = "project_id is \"${var.project_id}\"; it must be the id of a project: 6 to 30 lower-case letters, digits and -."
  }
}

variable "published_project_id" {
  description = "Project of the published bucket, and of nothing else: what is granted on the project above does not reach it."
  type        = string
  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{4,28}[a-z0-9]$", var.published_project_id))
    error_message = "published_project_id is \"${var.published_project_id}\"; it must be the id of a project: 6 to 30 lower-case letters, digits and -."
  }
  validation {
    condition     = var.published_project_id != var.project_id
    error_message = "published_project_id is project_id (\"${var.project_id}\"): Google's roles of Dataflow and Composer may write every bucket of their project, so published data needs a project of its own."
  }
}

variable "billing_account" {
  description = "Billing account of both projects, for the budget: XXXXXX-XXXXXX-XXXXXX."
  type        = string
  validation {
    condition     = can(regex("^[0-9A-F]{6}(-[0-9A-F]{6}){2}$", var.billing_account))
    error_message = "billing_account is \"${var.billing_account}\"; it must be like 01AB23-45CD67-89EF01."
  }
}

variable "monthly_budget" {
  description = "Money a month, in whole units of the billing account's currency; alerts come at half of it, at nine tenths, when it is reached, and when it is about to be."
  type        = number
  validation {
    condition     = var.monthly_budget >= 1 && floor(var.monthly_budget) == var.monthly_budget
    error_message = "monthly_budget is ${var.monthly_budget}; it must be a whole number of at least 1."
  }
}

variable "alert_emails" {
  description = "Who is told of failures, of jobs that rejected too much, and of the budget."
  type        = set(string)
  validation {
    condition     = length(var.alert_emails) > 0 && alltrue([for email in var.alert_emails : can(regex("^[^@ ]+@[^@ ]+\\.[^@ ]+$", email))])
    error_message = "alert_emails must be at least one e-mail address: alerts that nobody gets are none."
  }
}

variable "region" {
  description = "Region of everything; it needs the TPUs that tpu asks for."
  type        = string
  default     = "europe-west4"
  validation {
    condition     = can(regex("^[a-z]+-[a-z]+[0-9]+$", var.region))
    error_message = "region is \"${var.region}\"; it must be a region such as europe-west4, not a zone."
  }
}

variable "name" {
  description = "Beginning of every resource's name."
  type        = string
  default     = "superbatch"
  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,14}[a-z0-9]$", var.name))
    error_message = "name is \"${var.name}\"; it must be 3 to 16 lower-case letters, digits and -, beginning with a letter."
  }
}

variable "image" {
  description = "Image of all jobs, REPOSITORY/NAME:TAG, as pushed by infra/flex; null until the first is pushed. With it come the templates."
  type        = string
  default     = null
  validation {
    condition     = var.image == null || (can(regex("^[a-z0-9.-]+(/[a-z0-9._-]+)+:[A-Za-z0-9_][A-Za-z0-9_.-]{0,100}$", var.image)) && !endswith(coalesce(var.image, "-"), ":latest"))
    error_message = "image must be REPOSITORY/NAME:TAG, with a tag that is never moved (not latest)."
  }
}

variable "readers" {
  description = "Who may read published data, as IAM members: group:…, serviceAccount:…, user:…, domain:…"
  type        = set(string)
  default     = []
  validation {
    condition     = alltrue([for member in var.readers : can(regex("^(user|group|serviceAccount|domain|principal|principalSet):.+$", member))])
    error_message = "readers must be IAM members such as group:researchers@example.org; allUsers and allAuthenticatedUsers would make the data public, and are refused."
  }
}

variable "published_prefix" {
  description = "Folder in the published bucket that datasets lie below; empty for the bucket itself."
  type        = string
  default     = ""
  validation {
    condition     = var.published_prefix == "" || can(regex("^[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*$", var.published_prefix))
    error_message = "published_prefix is \"${var.published_prefix}\"; it must be like data or data/images, without / at either end."
  }
}

variable "retention" {
  description = <<-TEXT
    Days after which data goes:
    temporary: Dataflow's own files, and uploads that were never finished
    superseded: versions that were replaced, and deleted objects that could still be restored, of pointers, templates and raw files
    cold: working data (corpora, embeddings, workdirs) moves to cheaper storage, where reading costs
    working: working data is deleted; null keeps it. Published versions are never deleted
  TEXT
  type = object({
    temporary  = optional(number, 7)
    superseded = optional(number, 30)
    cold       = optional(number, 60)
    working    = optional(number)
  })
  default = {}
  validation {
    condition     = alltrue([for days in values(var.retention) : days == null || (coalesce(days, 1) >= 1 && floor(coalesce(days, 1)) == coalesce(days, 1))])
    error_message = "retention's days must be whole numbers of at least 1."
  }
  validation {
    condition     = var.retention.superseded >= 7 && var.retention.superseded <= 90
    error_message = "retention.superseded is ${var.retention.superseded} days; Cloud Storage restores deleted objects for 7 to 90."
  }
  validation {
    condition     = var.retention.working == null || coalesce(var.retention.working, 0) > var.retention.cold
    error_message = "retention.working must be more days than retention.cold (${var.retention.cold}): data is deleted after it has become cold."
  }
}

variable "composer" {
  description = "Airflow that schedules rounds; null where another Airflow does."
  type = object({
    image_version = optional(string, "composer-3-airflow-3")
    size          = optional(string, "ENVIRONMENT_SIZE_SMALL")
  })
  default = {}
  validation {
    condition     = can(regex("^composer-3-airflow-3(\\.[0-9]+\\.[0-9]+)?(-build\\.[0-9]+)?$", coalesce(try(var.composer.image_version, null), "composer-3-airflow-3")))
    error_message = "composer.image_version must be one of Composer 3 with Airflow 3, such as composer-3-airflow-3.1.7-build.0."
  }
  validation {
    condition     = contains(["ENVIRONMENT_SIZE_SMALL", "ENVIRONMENT_SIZE_MEDIUM", "ENVIRONMENT_SIZE_LARGE"], coalesce(try(var.composer.size, null), "ENVIRONMENT_SIZE_SMALL"))
    error_message = "composer.size must be ENVIRONMENT_SIZE_SMALL, _MEDIUM or _LARGE."
  }
}

variable "tpu" {
  description = <<-TEXT
    TPU slices of the trainer, in a zone of the region that has them; null where there are none.
    accelerator, topology: as the JobSet asks for them (infra/tpu)
    max_slices: that exist at a time; there are none while nothing runs
  TEXT
  type = object({
    zone        = string
    accelerator = optional(string, "tpu-v5-lite-podslice")
    topology    = optional(string, "4x4")
    max_slices  = optional(number, 1)
    spot        = optional(bool, true)
  })
  default = null
  validation {
    condition     = var.tpu == null || startswith(try(var.tpu.zone, ""), "${var.region}-")
    error_message = "tpu.zone must be a zone of region (${var.region}), such as ${var.region}-b."
  }
  validation {
    condition     = var.tpu == null || contains(["tpu-v4-podslice", "tpu-v5p-slice", "tpu-v5-lite-podslice", "tpu-v6e-slice"], try(var.tpu.accelerator, ""))
    error_message = "tpu.accelerator must be tpu-v4-podslice, tpu-v5p-slice, tpu-v5-lite-podslice (v5e) or tpu-v6e-slice."
  }
  validation {
    condition     = var.tpu == null || can(regex(contains(["tpu-v4-podslice", "tpu-v5p-slice"], try(var.tpu.accelerator, "")) ? "^[1-9][0-9]*(x[1-9][0-9]*){2}$" : "^[1-9][0-9]*x[1-9][0-9]*$", try(var.tpu.topology, "")))
    error_message = "tpu.topology must have two numbers (4x4) for v5e and v6e, three (2x2x2) for v4 and v5p."
  }
  validation {
    condition     = var.tpu == null || try(var.tpu.max_slices >= 1 && floor(var.tpu.max_slices) == var.tpu.max_slices, false)
    error_message = "tpu.max_slices must be a whole number of at least 1."
  }
}

variable "internet_access" {
  description = "Whether machines, which have no public addresses, reach the internet through a NAT. Google's services and the registry need none."
  type        = bool
  default     = false
}

variable "labels" {
  description = "Labels of everything that takes some, for the bill."
  type        = map(string)
  default     = {}
}
