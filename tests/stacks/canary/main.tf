# Every way a secret takes through a run: a sensitive variable, an output of it, a provisioner that prints its environment, one
# that prints what it was given, and an error that quotes it.
variable "password" {
  type      = string
  sensitive = true
}

variable "fail" {
  type    = bool
  default = false
}

resource "terraform_data" "database" {
  input = { password = var.password }

  provisioner "local-exec" {
    command = "env; echo password is \"$PASSWORD\"; echo \"$PASSWORD\" | base64 -w0"
    environment = {
      PASSWORD = nonsensitive(var.password)
    }
  }
}

# Not marked by anybody: found because it is known to be secret.
resource "terraform_data" "copy" {
  input = nonsensitive("postgres://app:${var.password}@db/app")
}

resource "terraform_data" "fails" {
  count = var.fail ? 1 : 0

  provisioner "local-exec" {
    command = "echo cannot log in with \"$PASSWORD\" >&2; exit 3"
    environment = {
      PASSWORD = nonsensitive(var.password)
    }
  }
}

output "connection" {
  value     = "postgres://app:${var.password}@db/app"
  sensitive = true
}

output "plain" {
  value = nonsensitive("app:${var.password}")
}
