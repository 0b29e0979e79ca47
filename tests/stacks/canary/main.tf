# Every way a secret takes through a run: a sensitive variable, an output of it, a provisioner that prints its environment,
# and one that prints what it was given.
variable "password" {
  type      = string
  sensitive = true
}

resource "terraform_data" "database" {
  input = { password = var.password }

  provisioner "local-exec" {
    command = "env; echo password is ${nonsensitive(var.password)}"
  }
}

# Not marked by anybody: found because it is known to be secret.
resource "terraform_data" "copy" {
  input = nonsensitive("postgres://app:${var.password}@db/app")
}

output "connection" {
  value     = "postgres://app:${var.password}@db/app"
  sensitive = true
}

output "plain" {
  value = nonsensitive(base64encode("app:${var.password}"))
}
