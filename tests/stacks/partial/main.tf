resource "terraform_data" "done" {
  input = "done"
}

resource "terraform_data" "fails" {
  depends_on = [terraform_data.done]

  provisioner "local-exec" {
    command = "echo the disk is full >&2; exit 3"
  }
}
