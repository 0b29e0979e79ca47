# Two items with a gate between them, and another before everything: data sources that read a file, or wait for a named pipe.
# Each item appends its id to a file of its own: what was made twice is a second line.
variable "world" {
  type = string
}

data "terraform_remote_state" "before" {
  backend = "local"
  config = {
    path = "${var.world}/before.gate"
  }
}

resource "terraform_data" "one" {
  input = "first"
  provisioner "local-exec" {
    command = "echo ${self.id} >> ${var.world}/one.made"
  }
}

data "terraform_remote_state" "between" {
  depends_on = [terraform_data.one]
  backend    = "local"
  config = {
    path = "${var.world}/between.gate"
  }
}

resource "terraform_data" "two" {
  depends_on = [data.terraform_remote_state.between]
  input      = "second"
  provisioner "local-exec" {
    command = "echo ${self.id} >> ${var.world}/two.made"
  }
}
