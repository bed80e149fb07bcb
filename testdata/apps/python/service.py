"""A small web service: GET /hull/N tells how many strakes a hull of N planks a side has."""

import sys

from flask import Flask, jsonify

app = Flask(__name__)


@app.get("/hull/<int:planks>")
def hull(planks):
    return jsonify(planks=planks, strakes=2 * planks)


def check():
    """Asks the service one question, without a socket, and prints the answer."""
    answer = app.test_client().get("/hull/12")
    print("python app:", answer.status, answer.get_json())
    return 0 if answer.get_json() == {"planks": 12, "strakes": 24} else 1


if __name__ == "__main__":
    if sys.argv[1:] == ["--check"]:
        sys.exit(check())
    app.run(host="0.0.0.0", port=8000)
