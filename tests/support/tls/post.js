// Posts its second argument, and a million bytes, to the server named in the first.
const https = require("https");
const [url, text] = process.argv.slice(2);
const agent = new https.Agent({ keepAlive: true, rejectUnauthorized: false });
const post = (body) =>
  new Promise((resolve) => {
    const request = https.request(url, { method: "POST", agent }, (answer) => {
      answer.resume().on("end", resolve);
    });
    request.end(body);
  });
post(text).then(() => post("x".repeat(1000000))).then(() => process.exit());
